//! What `cargo fuzz` runs on any bytes (see the page of `fuzz/`), and ordinary tests on the inputs that are kept there.
//! Each function returns, whatever it is given; an assertion that fails is a fault.

/// What stands in files of CNI, and what its plugins and runtimes say: a list, a result, an error, a configuration.
pub fn cni(bytes: &[u8]) {
    crate::cni::fuzz(bytes);
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_found_by_fuzzing_stays_found() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/cni");
        let seeds = fs::read_dir(folder).unwrap();
        let run = seeds.map(|seed| cni(&fs::read(seed.unwrap().path()).unwrap()));
        assert!(run.count() > 0);
    }
}
