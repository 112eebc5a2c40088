//! Who talks to the supervisor of a container: those who attach to it, and those who wait for its end.

use std::fs;

use bocker_tests::Session;

fn detached(s: &Session, options: &[&str], command: &[&str]) -> String {
    let output = s.run(&[&["-d"], options].concat(), command);
    output.text().trim().to_owned()
}

/// Waits until so many are connected to a supervisor.
fn wait_for_clients(s: &Session, id: &str, count: usize) {
    // It was bound under another name, and those that are accepted have it too.
    let name = format!("/run/bocker/{id}/socket.new");
    s.host.wait_for("the clients", || {
        let sockets = fs::read_to_string("/proc/thread-self/net/unix").expect("the sockets");
        let found = sockets.lines().filter(|line| line.ends_with(&name)).count();
        (found == 1 + count).then_some(())
    });
}

#[test]
fn wait_says_how_each_ends_in_the_order_of_the_words() {
    let s = Session::new();
    let ids = [3, 0, 137].map(|code| {
        let script = format!("mkfifo /go; read line < /go; exit {code}");
        detached(&s, &[], &["sh", "-c", &script])
    });
    let words = [
        &["bocker-spawn", "wait"],
        &ids.each_ref().map(String::as_str)[..],
    ]
    .concat();
    let waiting = s.host.spawn(&words);
    for id in &ids {
        wait_for_clients(&s, id, 1);
    }
    for id in ids.iter().rev() {
        let go = "until test -p /go; do sleep 0.01; done; echo > /go";
        s.bocker(&["exec", id, "sh", "-c", go]).ok();
    }
    assert_eq!(waiting.wait().text(), "3\n0\n137\n");
    // What has ended is known.
    let again = [&words[..], &[&ids[0]]].concat();
    assert_eq!(s.host.run(&again).text(), "3\n0\n137\n3\n");
}
