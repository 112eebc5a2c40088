//! What `cargo fuzz` runs on any bytes (see the page of `fuzz/`), and ordinary tests on the inputs that are kept there.
//! Each function returns, whatever it is given; an assertion that fails is a fault.

use crate::document::Document;
use crate::layout::{Config, ImageIndex, Index, Manifest};
use crate::reference::Reference;

/// A reference as people type it: whatever is read is the same when it is read again, in either form, and fit for an address.
pub fn reference(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let Ok(reference) = Reference::parse(text) else {
        return;
    };
    for form in [reference.to_string(), reference.familiar()] {
        assert_eq!(Reference::parse(&form).ok().as_ref(), Some(&reference));
        assert!(form.bytes().all(|byte| byte.is_ascii_graphic()));
    }
    assert!(
        !reference
            .path()
            .split('/')
            .any(|part| part.starts_with('.'))
    );
}

/// What a registry or another program's layout holds as JSON: index.json, an index, a manifest, a configuration.
pub fn layout(bytes: &[u8]) {
    if let Ok(index) = Index::parse(bytes) {
        for image in index.images() {
            let mut index = index.clone();
            assert!(index.find(image.id.as_str()).is_ok());
            assert!(index.find(image.digest.as_str()).is_ok());
            let _ = (image.familiar(), index.find(&image.familiar()));
            assert!(index.id_for(&image.digest).is_ok());
            index.put(&image);
            assert!(index.images().contains(&image));
            index.remove_entry(&image);
            assert!(!index.images().contains(&image));
        }
        let written = index.to_bytes().ok();
        let read = written.and_then(|bytes| Index::parse(&bytes).ok());
        assert_eq!(read.map(|read| read.images()), Some(index.images()));
    }
    if let Ok(index) = serde_json::from_slice::<ImageIndex>(bytes) {
        let again = serde_json::to_vec(&index).ok();
        let again = again.and_then(|bytes| serde_json::from_slice::<ImageIndex>(&bytes).ok());
        assert_eq!(again.map(|again| again.manifests), Some(index.manifests));
    }
    if let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) {
        let again = serde_json::to_vec(&manifest).ok();
        let again = again.and_then(|bytes| serde_json::from_slice::<Manifest>(&bytes).ok());
        assert_eq!(again.map(|again| again.layers), Some(manifest.layers));
    }
    if let Ok(config) = serde_json::from_slice::<Config>(bytes) {
        let _ = config.platform();
    }
}

/// The document that crosses a pipe: whatever is read is the same when it is written and read again.
pub fn document(bytes: &[u8]) {
    let Ok(document) = Document::parse(bytes) else {
        return;
    };
    let _ = (document.id(), document.error(), document.exit());
    let _ = (document.status(), document.dry_run());
    for pretty in [false, true] {
        let mut written = Vec::new();
        assert!(document.write(&mut written, pretty).is_ok());
        let again = Document::parse(&written).ok();
        let again = again.as_ref().map(Document::tree);
        assert_eq!(again, Some(document.tree()));
    }
}

/// Runs a target on every input that is kept for it in `fuzz/seeds/`, which must not be none.
#[cfg(test)]
pub(crate) fn replay(target: &str, run: impl Fn(&[u8])) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/");
    let seeds = std::fs::read_dir(format!("{folder}{target}")).unwrap();
    let count = seeds
        .map(|seed| run(&std::fs::read(seed.unwrap().path()).unwrap()))
        .count();
    assert!(count > 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_by_fuzzing_stays_found() {
        replay("reference", reference);
        replay("layout", layout);
        replay("document", document);
    }
}
