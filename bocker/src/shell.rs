//! Prints a pipeline so that a POSIX shell does with it what [`crate::execute`] does.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use bocker_pipe::step::quote_bytes;

use crate::pipeline::{Output, Pipeline, STDIN, STDOUT, Stage};

/// Words joined by single spaces, each quoted.
pub(crate) fn join<W: AsRef<OsStr>>(words: impl IntoIterator<Item = W>) -> Vec<u8> {
    let words: Vec<Vec<u8>> = words
        .into_iter()
        .map(|word| quote_bytes(word.as_ref().as_bytes()))
        .collect();
    words.join(&b' ')
}

/// One command. Its name is quoted where a shell could take it for an assignment.
pub(crate) fn command(stage: &Stage) -> Vec<u8> {
    let name = stage.program.shown();
    let name = name.as_bytes();
    let mut line = quote_bytes(name);
    if line == name && name.contains(&b'=') {
        line = [b"'", name, b"'"].concat();
    }
    if !stage.args.is_empty() {
        line.push(b' ');
        line.extend(join(&stage.args));
    }
    line
}

/// The whole pipeline as one line, without a newline at its end.
pub(crate) fn pipeline(pipeline: &Pipeline) -> Vec<u8> {
    let mut commands = Vec::new();
    if let Some(document) = &pipeline.document {
        let document = quote_bytes(document.as_bytes());
        commands.push([b"printf '%s\\n' ".as_slice(), &document].concat());
    }
    commands.extend(pipeline.stages.iter().map(command));
    let mut line = commands.join(b" | ".as_slice());
    if pipeline.output == Output::Discarded {
        line.extend(b" >/dev/null");
    }
    let carried = [
        (pipeline.carries_stdin, format!(" {STDIN}<&0")),
        (pipeline.carries_stdout, format!(" {STDOUT}>&1")),
    ];
    if carried.iter().any(|(given, _)| *given) {
        line = [b"{ ".as_slice(), &line, b"; }"].concat();
        for (_, redirection) in carried.iter().filter(|(given, _)| *given) {
            line.extend(redirection.as_bytes());
        }
    }
    if let Some(next) = &pipeline.next {
        line.extend(b" && ");
        line.extend(self::pipeline(next));
    }
    if let Some(said) = &pipeline.said {
        line.extend(b" && printf '%s\\n' ");
        line.extend(quote_bytes(said.as_bytes()));
    }
    line
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;
    use crate::tools::Program;

    fn stage(words: &[&str]) -> Stage {
        Stage::new(Program::named(words[0])).args(&words[1..])
    }

    #[test]
    fn a_foreground_run_is_the_line_of_the_design() {
        let mut line =
            Pipeline::new([stage(&["a", "create", "-"]), stage(&["b", "x y"])]).discarded();
        line.document = Some(r#"{"a":"it's"}"#.into());
        line.carries_stdin = true;
        line.carries_stdout = true;
        assert_eq!(
            String::from_utf8(pipeline(&line)).unwrap(),
            r#"{ printf '%s\n' '{"a":"it'\''s"}' | a create - | b 'x y' >/dev/null; } 3<&0 4>&1"#
        );
    }

    #[test]
    fn a_name_is_never_taken_for_an_assignment() {
        assert_eq!(command(&stage(&["/a=b/c", "d=e"])), b"'/a=b/c' d=e");
        assert_eq!(command(&stage(&["/a='b/c"])), br"'/a='\''b/c'");
    }

    /// What a shell makes of the line.
    fn shell(line: &[u8]) -> Vec<u8> {
        let output = Command::new("/bin/sh")
            .arg("-c")
            .arg(OsString::from_vec(line.to_vec()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn a_shell_reads_every_word_back(words in prop::collection::vec(prop::collection::vec(1u8..=255, 0..20), 1..5)) {
            let args = words.iter().map(|word| OsString::from_vec(word.clone()));
            let line = command(&Stage::new(Program::named("printf")).arg("%s\\000").args(args));
            let expected: Vec<u8> = words.iter().flat_map(|word| word.iter().copied().chain([0])).collect();
            prop_assert_eq!(shell(&line), expected);
        }

        #[test]
        fn a_shell_feeds_the_document_as_it_is(text in "\\PC{0,60}") {
            let mut line = Pipeline::new([stage(&["cat"])]);
            line.document = Some(text.clone());
            prop_assert_eq!(shell(&pipeline(&line)), format!("{text}\n").into_bytes());
        }
    }
}
