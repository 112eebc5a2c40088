//! Finds the tools: a swapped piece where one is named, else the one beside this binary, else the one on PATH.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bocker_pipe::{Error, Kind, Result};

/// A tool of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    Pull,
    Snap,
    Net,
    Cg,
    Spawn,
}

impl Piece {
    pub(crate) const ALL: [Piece; 5] = [
        Piece::Pull,
        Piece::Snap,
        Piece::Net,
        Piece::Cg,
        Piece::Spawn,
    ];

    /// The short name: `net`.
    pub(crate) fn stage(self) -> &'static str {
        match self {
            Piece::Pull => "pull",
            Piece::Snap => "snap",
            Piece::Net => "net",
            Piece::Cg => "cg",
            Piece::Spawn => "spawn",
        }
    }

    /// The environment variable that names another program for it: `BOCKER_NET`.
    fn variable(self) -> &'static str {
        match self {
            Piece::Pull => "BOCKER_PULL",
            Piece::Snap => "BOCKER_SNAP",
            Piece::Net => "BOCKER_NET",
            Piece::Cg => "BOCKER_CG",
            Piece::Spawn => "BOCKER_SPAWN",
        }
    }
}

/// A program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    /// By which a shell may find it.
    name: Option<OsString>,
}

impl Program {
    fn at(path: PathBuf) -> Program {
        Program { path, name: None }
    }

    /// Found as a shell finds it.
    pub(crate) fn on_path(name: &OsStr) -> Option<Program> {
        let path = on_path(name)?;
        let name = Some(name.to_owned());
        Some(Program { path, name })
    }

    #[cfg(test)]
    pub(crate) fn named(name: &str) -> Program {
        Program::at(name.into())
    }

    /// How a command line names it: by its name alone when a shell finds the same file by that, else by its path.
    pub(crate) fn shown(&self) -> OsString {
        let is_this = |other: &PathBuf| match (fs::metadata(&self.path), fs::metadata(other)) {
            (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
            _ => false,
        };
        match &self.name {
            Some(name) if on_path(name).as_ref().is_some_and(is_this) => name.clone(),
            _ => self.path.clone().into_os_string(),
        }
    }
}

/// A piece swapped by a leading `--with net=PROGRAM`, which outlives the caller's environment.
#[derive(Debug, Clone)]
pub(crate) struct Swap {
    piece: Piece,
    program: PathBuf,
}

impl Swap {
    /// Reads `net=PROGRAM`.
    pub(crate) fn parse(text: &str) -> Result<Swap, String> {
        let (name, program) = text.split_once('=').unwrap_or((text, ""));
        let piece = Piece::ALL.into_iter().find(|piece| piece.stage() == name);
        match (piece, program) {
            (_, "") | (None, _) => {
                Err("it is not PIECE=PROGRAM, with PIECE one of pull, snap, net, cg, spawn".into())
            }
            (Some(piece), program) => Ok(Swap {
                piece,
                program: program.into(),
            }),
        }
    }
}

/// Where to look for tools.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    swaps: Vec<Swap>,
    own: PathBuf,
}

impl Tools {
    pub(crate) fn new(swaps: Vec<Swap>) -> Tools {
        Tools {
            swaps,
            own: env::current_exe().unwrap_or_else(|_| "bocker".into()),
        }
    }

    /// The program that stands for a piece in pipelines. Fails with [`Kind::NotFound`] before anything has been started.
    pub(crate) fn find(&self, piece: Piece) -> Result<Program> {
        if let Some((program, named_by)) = self.swapped(piece) {
            let found = if program.as_os_str().as_bytes().contains(&b'/') {
                is_program(&program).then_some(program.clone())
            } else {
                on_path(program.as_os_str())
            };
            return found.map(Program::at).ok_or_else(|| {
                let what = format!(
                    "{named_by} names {}, which is no program",
                    program.display()
                );
                Error::new(Kind::NotFound, what)
                    .hint(format!("without it bocker-{} is used", piece.stage()))
            });
        }
        self.find_own(piece)
    }

    /// The tool itself, whatever stands for it in pipelines.
    pub(crate) fn find_own(&self, piece: Piece) -> Result<Program> {
        let name = format!("bocker-{}", piece.stage());
        let beside = self.own.with_file_name(&name);
        if is_program(&beside) {
            return Ok(Program {
                path: beside,
                name: Some(name.into()),
            });
        }
        Program::on_path(name.as_ref()).ok_or_else(|| {
            let own = self.own.display();
            Error::new(
                Kind::NotFound,
                format!("{name} is neither beside {own} nor on PATH"),
            )
            .hint(
                "install it, or name a program with the variable of its piece, as BOCKER_NET=/path",
            )
        })
    }

    /// This program, for a stage of its own.
    pub(crate) fn own(&self) -> Program {
        Program {
            path: self.own.clone(),
            name: Some("bocker".into()),
        }
    }

    /// This program with its whole path, and the swapped pieces as arguments: for one who starts it later, elsewhere.
    pub(crate) fn own_elsewhere(&self) -> Vec<OsString> {
        let mut words = vec![self.own.clone().into_os_string()];
        for piece in Piece::ALL {
            if let Some((program, _)) = self.swapped(piece) {
                let path = if program.as_os_str().as_bytes().contains(&b'/') {
                    std::path::absolute(&program).unwrap_or(program)
                } else {
                    on_path(program.as_os_str()).unwrap_or(program)
                };
                let mut value = OsString::from(format!("{}=", piece.stage()));
                value.push(path);
                words.extend(["--with".into(), value]);
            }
        }
        words
    }

    fn swapped(&self, piece: Piece) -> Option<(PathBuf, String)> {
        let by_option = self.swaps.iter().rev().find(|swap| swap.piece == piece);
        if let Some(swap) = by_option {
            return Some((swap.program.clone(), format!("--with {}=", piece.stage())));
        }
        let value = env::var_os(piece.variable()).filter(|value| !value.is_empty())?;
        Some((value.into(), piece.variable().to_owned()))
    }
}

/// The first program of this name on PATH, as `command -v` finds it.
pub(crate) fn on_path(name: &OsStr) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| is_program(file))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_names_a_piece_and_a_program() {
        let swap = Swap::parse("net=/a=b").unwrap();
        assert_eq!(swap.piece, Piece::Net);
        assert_eq!(swap.program, Path::new("/a=b"));
        for text in ["", "net", "net=", "fish=/a", "=/a"] {
            assert!(Swap::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_piece_that_is_no_program_is_said_before_anything_starts() {
        let swap = Swap::parse("cg=/etc/passwd").unwrap();
        let error = Tools::new(vec![swap]).find(Piece::Cg).unwrap_err();
        assert!(error.message().contains("/etc/passwd"), "{error}");
    }
}
