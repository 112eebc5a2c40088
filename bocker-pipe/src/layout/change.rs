//! An edit of `index.json` that a step makes: how it is shown, taken back, and what blobs it leaves without a use.

use std::collections::BTreeSet;

use super::{Digest, Image, Index, Layout, Writer};
use crate::error::Result;
use crate::step::quote;

/// Why the step that follows an edit and removes blobs is done. It is never a reason to take the edit back.
pub const WHY_BLOBS: &str = "blobs that no image leads to any more are of no use";

/// What an edit of index.json did.
#[derive(Debug, Default)]
pub struct Change {
    added: Vec<Image>,
    removed: Vec<Image>,
    /// Blobs of what was removed, which are gone too.
    discarded: Vec<Digest>,
}

impl Change {
    /// Makes it, and notes what it did.
    pub fn make<T>(
        &mut self,
        writer: &Writer,
        edit: impl FnOnce(&mut Index) -> Result<T>,
    ) -> Result<T> {
        let (result, before, after) = writer.edit(|index| {
            let before = index.images();
            let result = edit(index)?;
            Ok((result, before, index.images()))
        })?;
        let only = |these: &[Image], those: &[Image]| -> Vec<Image> {
            let other = these.iter().filter(|image| !those.contains(image));
            other.cloned().collect()
        };
        self.added = only(&after, &before);
        self.removed = only(&before, &after);
        Ok(result)
    }

    /// Takes it back. A name that somebody else has moved on since stays where it is.
    pub fn undo(&mut self, writer: &Writer) -> Result<()> {
        let added = std::mem::take(&mut self.added);
        let removed = std::mem::take(&mut self.removed);
        writer.edit(|index| {
            for image in &added {
                index.remove_entry(image);
            }
            for image in &removed {
                let has_its_name = |other: &Image| other.reference == image.reference;
                let taken = image.reference.is_some() && index.images().iter().any(has_its_name);
                if !taken {
                    index.put(image);
                }
            }
            Ok(())
        })
    }

    /// Removes the blobs of the entries that were removed, those excepted that something leads to. What cannot be removed now,
    /// because another image is damaged or somebody else is writing, is for gc to remove or to tell.
    pub fn discard(&mut self, writer: Writer) {
        let layout = writer.layout().clone();
        let blobs = self.removed.iter().flat_map(|image| layout.blobs_of(image));
        let blobs: BTreeSet<Digest> = blobs.filter(|blob| layout.blob(blob).exists()).collect();
        let mut blobs: Vec<Digest> = blobs.into_iter().collect();
        let _ = writer.discard(&blobs);
        blobs.retain(|blob| !layout.blob(blob).exists());
        self.discarded = blobs;
    }

    /// The commands that remove what [`Change::discard`] removed.
    pub fn discarded(&self, layout: &Layout) -> Vec<String> {
        let path = |blob| layout.blob(blob).display().to_string();
        let blobs = self.discarded.iter().map(path);
        blobs
            .map(|path| format!("rm -f {}", quote(&path)))
            .collect()
    }
}

impl Image {
    /// What an edit of `index.json` says of the image, for people.
    pub fn entry_line(&self) -> String {
        let name = self.familiar();
        format!("# index.json: {name} is {}, {}", self.digest, self.id)
    }
}

impl Layout {
    /// The command that shows `index.json`.
    pub fn look_at_index(&self) -> String {
        let index = self.root().join(super::INDEX_FILE).display().to_string();
        format!("jq .manifests {}", quote(&index))
    }

    /// Everything that an image consists of, as far as it can be told.
    pub fn blobs_of(&self, image: &Image) -> BTreeSet<Digest> {
        let mut blobs = BTreeSet::from([image.digest.clone()]);
        if let Ok(manifest) = self.manifest(image) {
            blobs.insert(manifest.config.digest);
            blobs.extend(manifest.layers.into_iter().map(|layer| layer.digest));
        }
        blobs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::id::Id;

    fn image(name: &str, content: &str) -> Image {
        Image {
            id: Id::parse(&format!("img_00000{content}")).unwrap(),
            reference: Some(name.to_owned()),
            media_type: "m".to_owned(),
            digest: Digest::of(content.as_bytes()),
            size: 1,
            platform: None,
            source: None,
        }
    }

    fn put(writer: &Writer, change: &mut Change, image: &Image) {
        let put = |index: &mut Index| {
            index.put(image);
            Ok(())
        };
        change.make(writer, put).unwrap();
    }

    #[test]
    fn an_edit_is_taken_back_unless_somebody_has_moved_the_name_on() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::at(folder.path());
        let writer = layout.writer().unwrap();
        put(
            &writer,
            &mut Change::default(),
            &image("docker.io/library/x:1", "a"),
        );
        let before = layout.images().unwrap();

        let mut change = Change::default();
        put(&writer, &mut change, &image("docker.io/library/x:1", "b"));
        change.undo(&writer).unwrap();
        assert_eq!(layout.images().unwrap(), before);
        change.undo(&writer).unwrap();
        assert_eq!(layout.images().unwrap(), before);

        put(&writer, &mut change, &image("docker.io/library/x:1", "b"));
        let moved = image("docker.io/library/x:1", "c");
        put(&writer, &mut Change::default(), &moved);
        change.undo(&writer).unwrap();
        assert_eq!(layout.find("x:1").unwrap(), moved);
    }

    #[test]
    fn an_edit_that_fails_changes_nothing_and_has_nothing_to_take_back() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::at(folder.path());
        let writer = layout.writer().unwrap();
        let mut change = Change::default();
        let fail = |index: &mut Index| index.find("absent");
        let error = change.make(&writer, fail).unwrap_err();
        assert_eq!(error.kind(), &Kind::NotFound);
        assert!(change.added.is_empty() && change.removed.is_empty());
    }
}
