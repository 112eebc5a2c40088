//! A terminal at which somebody sits: a real one of the kernel's, whose screen can be read and at which one can type.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::{Pid, setsid};

/// How long somebody looks at the screen for what is to come.
const PATIENCE: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(2);

fn size_of(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

fn number(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).expect("a size")
}

/// A terminal and the program that was started at it, which leads its session.
pub struct Terminal {
    /// What the keyboard and the screen are to a person. Without it the terminal has hung up.
    master: Option<File>,
    terminal: OwnedFd,
    screen: Arc<Mutex<vt100::Parser>>,
    child: Child,
}

impl Terminal {
    pub(crate) fn start(mut command: Command, rows: u16, columns: u16) -> Terminal {
        let pair = openpty(&size_of(rows, columns), None).expect("a terminal");
        let copy = || Stdio::from(pair.slave.try_clone().expect("a copy"));
        command.stdin(copy()).stdout(copy()).stderr(copy());
        let lead = || {
            setsid()?;
            // SAFETY: ioctl_tty(2), TIOCSCTTY: the argument is an integer.
            match unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: setsid(2) and ioctl(2) are async-signal-safe, and nothing is allocated.
        unsafe { command.pre_exec(lead) };
        let child = command.spawn().expect("start at a terminal");
        let parser = vt100::Parser::new(number(rows), number(columns), 0);
        let screen = Arc::new(Mutex::new(parser));
        let master = File::from(pair.master);
        let (mut reader, shown) = (master.try_clone().expect("a copy"), screen.clone());
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // A pipe's end would be 0; a terminal says EIO.
            while let Ok(length @ 1..) = reader.read(&mut bytes) {
                shown.lock().expect("the screen").process(&bytes[..length]);
            }
        });
        Terminal {
            master: Some(master),
            terminal: pair.slave,
            screen,
            child,
        }
    }

    /// The program's pid.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Types.
    ///
    /// # Panics
    /// When it has hung up.
    pub fn types(&self, keys: &str) {
        let mut master = self.master.as_ref().expect("it has not hung up");
        master.write_all(keys.as_bytes()).expect("type");
    }

    /// What is on the screen.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn screen(&self) -> String {
        self.screen.lock().expect("the screen").screen().contents()
    }

    /// Waits until the screen shows it.
    ///
    /// # Panics
    /// When it never does.
    #[track_caller]
    pub fn shows(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.screen().contains(text) {
            assert!(
                Instant::now() < deadline,
                "{text:?} is not on the screen:\n{}",
                self.screen()
            );
            thread::sleep(TICK);
        }
    }

    /// Makes the window of this size, as one does with a mouse.
    ///
    /// # Panics
    /// When it has hung up.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = size_of(rows, columns);
        let master = self.master.as_ref().expect("it has not hung up");
        // SAFETY: ioctl_tty(2), TIOCSWINSZ reads a live winsize.
        let done = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(done, 0, "resize");
        let mut screen = self.screen.lock().expect("the screen");
        screen.screen_mut().set_size(number(rows), number(columns));
    }

    /// Whether what is typed is shown and edited by the terminal itself, as at a shell's prompt.
    ///
    /// # Panics
    /// When it is no terminal any more.
    #[must_use]
    pub fn is_cooked(&self) -> bool {
        let modes = tcgetattr(&self.terminal).expect("the modes");
        modes
            .local_flags
            .contains(LocalFlags::ICANON | LocalFlags::ECHO)
    }

    /// Sends a signal to the program.
    pub fn signal(&self, signal: Signal) {
        _ = kill(self.pid(), signal);
    }

    /// The window is closed: the kernel sends SIGHUP to the program.
    pub fn close(&mut self) {
        // The reader's copy stays open as long as somebody has the other end, so that it has to be told.
        let master = self.master.take();
        drop(master);
        // SAFETY: ioctl(2), TIOCVHANGUP takes no argument.
        _ = unsafe { libc::ioctl(self.terminal.as_raw_fd(), libc::TIOCVHANGUP) };
    }

    /// Waits for the end of the program: its exit status as a shell gives it, and what was on the screen then.
    ///
    /// # Panics
    /// When it hangs.
    #[track_caller]
    pub fn wait(mut self) -> (i32, String) {
        let deadline = Instant::now() + PATIENCE * 2;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait for the program") {
                // What it wrote last may still be on its way.
                thread::sleep(TICK * 10);
                return (code(status), self.screen());
            }
            assert!(
                Instant::now() < deadline,
                "it has not ended; the screen:\n{}",
                self.screen()
            );
            thread::sleep(TICK);
        }
    }
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    let signal = status.signal().unwrap_or_default();
    status.code().unwrap_or(128 + signal)
}

impl Drop for Terminal {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
