//! The steps that tools have, as they list them themselves: one that is new cannot be forgotten by a test.

/// The names in the lines `# net.veth: why` of `--explain`, in order, each once.
#[must_use]
pub fn step_names(explained: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let lines = explained.lines();
    for (name, _) in lines.filter_map(|line| line.strip_prefix("# ")?.split_once(": ")) {
        if is_step(name) && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

fn is_step(name: &str) -> bool {
    name.split_once('.').is_some_and(|(stage, object)| {
        ["pull", "snap", "net", "cg", "spawn"].contains(&stage)
            && !object.is_empty()
            && object
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b == b'-' || b == b'_')
    })
}
