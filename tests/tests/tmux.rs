//! Somebody in a window of tmux, with a shell there: `run -it` with a program that draws the whole screen, its window made
//! smaller and larger, left by the keys, come back to from another window, and ended.

use bocker_tests::{Host, Output, Session, need};

/// A tmux server of the test's own with one session, which ends with it.
struct Tmux<'a> {
    host: &'a Host,
    socket: String,
}

/// Columns and rows.
type Size = (usize, usize);

impl Tmux<'_> {
    /// Begins with a window of this size.
    fn start(host: &Host, (columns, rows): Size) -> Tmux<'_> {
        let socket = host.scratch().join("tmux").display().to_string();
        let tmux = Tmux { host, socket };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        tmux.opens(&["new-session", "-d", "-x", &columns, "-y", &rows]);
        tmux
    }

    /// Opens a window, in which a shell has the test's environment.
    fn opens(&self, how: &[&str]) {
        self.call(&[how, &["env", "PS1=host$ ", "sh"]].concat());
        self.shows("host$");
    }

    fn words<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        // Nobody's own settings, and no other server.
        [&["tmux", "-S", &self.socket, "-f", "/dev/null"], words].concat()
    }

    #[track_caller]
    fn call(&self, words: &[&str]) -> Output {
        self.host.run(&self.words(words)).ok()
    }

    /// Types a text, or keys by their names.
    fn types(&self, text: &str) {
        self.call(&["send-keys", "-l", text]);
    }

    fn presses(&self, keys: &[&str]) {
        self.call(&[&["send-keys"], keys].concat());
    }

    fn enters(&self, line: &str) {
        self.types(line);
        self.presses(&["Enter"]);
    }

    fn resize(&self, (columns, rows): Size) {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        self.call(&["resize-window", "-x", &columns, "-y", &rows]);
    }

    /// The lines of the screen, from the first to the last that is not empty.
    fn screen(&self) -> Vec<String> {
        let shown = self.call(&["capture-pane", "-p"]).stdout;
        let shown = shown.trim_end().lines();
        shown.map(|line| line.trim_end().to_owned()).collect()
    }

    /// Waits until the screen is as wanted.
    #[track_caller]
    fn waits_for(&self, what: &str, wanted: impl Fn(&[String]) -> bool) {
        self.host
            .wait_for(what, || wanted(&self.screen()).then_some(()));
    }

    #[track_caller]
    fn shows(&self, text: &str) {
        self.waits_for(text, |lines| lines.iter().any(|line| line.contains(text)));
    }
}

impl Drop for Tmux<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let screen = self.host.run(&self.words(&["capture-pane", "-p"]));
            eprintln!("the screen:\n{}", screen.stdout);
        }
        self.host.run(&self.words(&["kill-server"]));
    }
}

/// What busybox's vi shows of a file of three lines in so many rows: tildes where there is no line, its status in the last.
fn is_vi(lines: &[String], rows: usize) -> bool {
    let status = lines.last().is_some_and(|line| line.contains("/poem 1/3"));
    let text = ["first", "second", "third"];
    lines.len() == rows
        && status
        && lines.iter().zip(text).all(|(line, text)| line == text)
        && lines[3..rows - 1].iter().all(|line| line == "~")
}

#[test]
fn a_screen_is_drawn_resized_left_come_back_to_and_ended() {
    if !need("tmux") {
        return;
    }
    let s = Session::new();
    std::fs::write(format!("{}/poem", s.rootfs), "first\nsecond\nthird\n").expect("a file");
    s.run(&["--rm"], &["true"]).ok();
    let before = s.host.fingerprint();
    let tmux = Tmux::start(&s.host, (100, 30));
    let base = s.base().join(" ");
    tmux.enters(&format!(
        "clear; bocker run -it --rm --name box -e TERM=$TERM {base} sh"
    ));
    tmux.shows("/ #");
    tmux.enters("clear; stty size");
    tmux.shows("30 100");
    tmux.enters("vi /poem");
    tmux.waits_for("vi on 30 rows", |lines| is_vi(lines, 30));
    for rows in [12, 40] {
        tmux.resize((80, rows));
        tmux.waits_for("vi on another size", |lines| is_vi(lines, rows));
    }
    let drawn = tmux.screen();

    tmux.presses(&["C-p", "C-q"]);
    tmux.shows("detached: box goes on");
    // The terminal is the shell's again, which shows what is typed.
    tmux.enters("clear; stty -a | grep -c ' icanon.* echo '");
    tmux.waits_for("a terminal in order", |lines| {
        lines.first().is_some_and(|line| line == "1")
    });

    // In another window of the same size the whole screen is drawn anew all the same.
    tmux.opens(&["new-window"]);
    tmux.resize((80, 40));
    tmux.enters("clear; bocker attach box");
    tmux.waits_for("the same screen", |lines| lines == drawn);
    tmux.resize((90, 20));
    tmux.waits_for("vi on 20 rows", |lines| is_vi(lines, 20));
    tmux.types("ox");
    tmux.presses(&["Escape"]);
    tmux.shows("- /poem [Modified] 2/4");
    tmux.enters(":wq");
    tmux.shows("/ #");
    tmux.enters("clear; cat /poem");
    let written = ["first", "x", "second", "third", "/ #"];
    tmux.waits_for("what was written", |lines| lines == written);
    tmux.enters("clear; exit 7");
    tmux.waits_for("the host's shell", |lines| {
        lines.last().is_some_and(|line| line == "host$")
    });
    tmux.enters("echo code $?");
    tmux.shows("code 7");
    drop(tmux);
    s.host.assert_same(&before);
}
