//! `index.json`: which images there are. Every entry that we did not write, and every field that we do not know, is kept as it is.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::digest::Digest;
use super::types::{Descriptor, OCI_INDEX, Platform};
use crate::containers;
use crate::error::{Error, Kind, Result};
use crate::id::{Id, Prefix};
use crate::reference::{Reference, Version};

/// The full canonical reference (image-spec annotations.md).
const REFERENCE: &str = "org.opencontainers.image.ref.name";
/// The id that people type.
const ID: &str = "io.bocker.id";
/// What the tag resolved to, when that was an index.
const SOURCE: &str = "io.bocker.source";
/// What an id is recognised by in a text that may be a reference or part of an id.
const ID_PREFIX: &str = "img_";
/// And a digest.
const DIGEST_PREFIX: &str = "sha256:";

/// One entry: an image under one of its names. An image with two tags has two entries with the same id and digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The image's id; entries without `io.bocker.id` (skopeo's, umoci's) have one made from their digest.
    pub id: Id,
    /// The canonical reference, or whatever another program wrote there; `None` for an image whose name went to another.
    pub reference: Option<String>,
    /// The media type of the manifest.
    pub media_type: String,
    /// The digest of the platform's manifest.
    pub digest: Digest,
    /// The size of the manifest in bytes.
    pub size: u64,
    /// The platform, when the entry says so.
    pub platform: Option<Platform>,
    /// The digest of the index that the tag resolved to.
    pub source: Option<Digest>,
}

impl Image {
    fn read(entry: &Value) -> Option<Image> {
        let descriptor: Descriptor = serde_json::from_value(entry.clone()).ok()?;
        let annotation = |name: &str| descriptor.annotations.get(name);
        let id = annotation(ID)
            .and_then(|id| Id::parse(id).ok())
            .filter(|id| !id.is_container());
        Some(Image {
            id: id.or_else(|| Id::from_hex(Prefix::Image, descriptor.digest.hex()))?,
            reference: annotation(REFERENCE).cloned(),
            source: annotation(SOURCE).and_then(|digest| Digest::parse(digest).ok()),
            media_type: descriptor.media_type,
            digest: descriptor.digest,
            size: descriptor.size,
            platform: descriptor.platform,
        })
    }

    fn entry(&self) -> Value {
        let mut annotations = BTreeMap::from([(ID, self.id.as_str())]);
        annotations.extend(self.reference.as_deref().map(|name| (REFERENCE, name)));
        annotations.extend(self.source.as_ref().map(|digest| (SOURCE, digest.as_str())));
        let mut entry = json!({
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size,
            "annotations": annotations,
        });
        if let Some(platform) = &self.platform {
            entry["platform"] = json!(platform);
        }
        entry
    }

    /// The short name for people; `<none>` for an image without one, as docker shows it.
    pub fn familiar(&self) -> String {
        match &self.reference {
            None => "<none>".to_owned(),
            Some(name) => Reference::parse(name)
                .map_or_else(|_| name.clone(), |reference| reference.familiar()),
        }
    }
}

/// What goes when somebody removes an image by some word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// One of several names.
    Name(Image),
    /// The image, with all its names.
    Image(Image),
}

/// The content of `index.json`.
#[derive(Debug, Clone)]
pub struct Index(Map<String, Value>);

impl Index {
    pub(super) fn empty() -> Index {
        let mut fields = Map::new();
        fields.insert("schemaVersion".into(), 2.into());
        fields.insert("mediaType".into(), OCI_INDEX.into());
        fields.insert("manifests".into(), Value::Array(Vec::new()));
        Index(fields)
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Index> {
        let wrong = |why: &str| {
            Error::new(
                Kind::Invalid,
                format!("index.json of the image store is damaged: {why}"),
            )
        };
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => match fields.get("manifests") {
                Some(Value::Array(_)) => Ok(Index(fields)),
                _ => Err(wrong("it has no list of manifests")),
            },
            Ok(_) => Err(wrong("it is not a JSON object")),
            Err(error) => Err(wrong(&error.to_string())),
        }
    }

    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(&self.0)
            .map_err(|error| Error::new(Kind::Invalid, format!("cannot write index.json: {error}")))
    }

    /// The raw entries, those that are not understood included.
    pub(super) fn entries(&self) -> &[Value] {
        self.0
            .get("manifests")
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice)
    }

    /// Removes the entries that are understood and for which `gone` holds.
    fn remove(&mut self, gone: impl Fn(&Image) -> bool) -> Vec<Image> {
        let mut removed = Vec::new();
        if let Some(Value::Array(entries)) = self.0.get_mut("manifests") {
            entries.retain(|entry| match Image::read(entry) {
                Some(image) if gone(&image) => {
                    removed.push(image);
                    false
                }
                _ => true,
            });
        }
        removed
    }

    fn push(&mut self, image: &Image) {
        if let Some(Value::Array(entries)) = self.0.get_mut("manifests") {
            entries.push(image.entry());
        }
    }

    /// The images, one for each name, in the order in which they came. Entries of a form that we do not know are left out.
    pub fn images(&self) -> Vec<Image> {
        self.entries().iter().filter_map(Image::read).collect()
    }

    /// The image of an id, a reference, a digest or the beginning of one image's id or digest.
    /// Fails with [`Kind::NotFound`] in the original's words, or with [`Kind::Invalid`] when several ids begin so.
    pub fn find(&self, text: &str) -> Result<Image> {
        let missing = || Error::new(Kind::NotFound, format!("No image named '{text}' exists"));
        let images = self.images();
        let first = |is: &dyn Fn(&Image) -> bool| images.iter().find(|image| is(image)).cloned();
        if text.is_empty() {
            return Err(missing());
        }
        let reference = Reference::parse(text).ok();
        let canonical = reference.as_ref().map(Reference::to_string);
        let exact = first(&|image| image.id.as_str() == text || image.digest.as_str() == text)
            .or_else(|| first(&|image| image.reference.is_some() && image.reference == canonical))
            .or_else(|| first(&|image| image.reference.as_deref() == Some(text)))
            .or_else(|| {
                first(&|image| {
                    reference
                        .as_ref()
                        .is_some_and(|reference| image.has_digest_of(reference))
                })
            });
        if let Some(image) = exact {
            return Ok(image);
        }
        let is_beginning = [ID_PREFIX, DIGEST_PREFIX]
            .iter()
            .any(|prefix| text.len() > prefix.len() && text.starts_with(prefix));
        if !is_beginning {
            return Err(missing());
        }
        let begins_so = |image: &&Image| {
            image.id.as_str().starts_with(text) || image.digest.as_str().starts_with(text)
        };
        let mut ids: Vec<&Id> = images
            .iter()
            .filter(begins_so)
            .map(|image| &image.id)
            .collect();
        ids.sort();
        ids.dedup();
        match ids[..] {
            [id] => first(&|image| image.id == *id).ok_or_else(missing),
            [] => Err(missing()),
            _ => {
                let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
                Err(Error::new(
                    Kind::Invalid,
                    format!(
                        "'{text}' is the beginning of several ids: {}",
                        ids.join(", ")
                    ),
                ))
            }
        }
    }

    /// The id for a manifest: the one that it has, else one made from its digest that no other image has.
    pub fn id_for(&self, digest: &Digest) -> Result<Id> {
        let images = self.images();
        if let Some(image) = images.iter().find(|image| image.digest == *digest) {
            return Ok(image.id.clone());
        }
        let mut hex = digest.hex();
        while let Some(id) = Id::from_hex(Prefix::Image, hex) {
            if images.iter().all(|image| image.id != id) {
                return Ok(id);
            }
            hex = &hex[1..];
        }
        Id::random(Prefix::Image)
    }

    /// Enters an image. What had its name before stays, without a name if that was its only one, until it is removed.
    pub fn put(&mut self, image: &Image) {
        let replaced = match &image.reference {
            Some(_) => self.remove(|other| {
                // The nameless entry of an image that gets a name is of no more use.
                other.reference == image.reference
                    || (other.reference.is_none() && other.digest == image.digest)
            }),
            None => Vec::new(),
        };
        for old in replaced {
            if old.digest != image.digest {
                self.put_nameless(old);
            }
        }
        match image.reference {
            Some(_) => self.push(image),
            None => self.put_nameless(image.clone()),
        }
    }

    fn put_nameless(&mut self, image: Image) {
        if self
            .images()
            .iter()
            .all(|other| other.digest != image.digest)
        {
            self.push(&Image {
                reference: None,
                source: None,
                ..image
            });
        }
    }

    /// Points every name of the image `id` at another manifest; the former one is forgotten. Answers whether there was one.
    pub fn repoint(&mut self, id: &Id, to: &Descriptor) -> bool {
        let former = self.remove(|image| image.id == *id);
        for image in &former {
            self.push(&Image {
                media_type: to.media_type.clone(),
                digest: to.digest.clone(),
                size: to.size,
                platform: to.platform.clone(),
                source: None,
                ..image.clone()
            });
        }
        !former.is_empty()
    }

    /// Removes one name, and the image with it if it was the last. Answers what was removed.
    pub fn remove_reference(&mut self, canonical: &str) -> Vec<Image> {
        self.remove(|image| image.reference.as_deref() == Some(canonical))
    }

    /// What [`Index::take`] would remove. Fails with [`Kind::NotFound`], and unless `force` with [`Kind::InUse`] when an image
    /// of several names is meant by something else than a name, or the last name by which a container's image is known.
    pub fn removal(&self, text: &str, force: bool) -> Result<Removal> {
        let image = self.find(text)?;
        let names: Vec<Image> = self.images();
        let names: Vec<&Image> = names.iter().filter(|other| other.id == image.id).collect();
        if image.is_named(text) && names.len() > 1 {
            return Ok(Removal::Name(image));
        }
        if names.len() > 1 && !force {
            let names: Vec<String> = names.iter().map(|image| image.familiar()).collect();
            return Err(Error::new(
                Kind::InUse,
                format!("{} has several names: {}", image.id, names.join(", ")),
            )
            .hint("remove one of them by name, or all with -f"));
        }
        let users = match force {
            true => Vec::new(),
            false => containers::of_image(image.digest.as_str())?,
        };
        if !users.is_empty() {
            let users: Vec<&str> = users.iter().map(Id::as_str).collect();
            return Err(Error::new(
                Kind::InUse,
                format!("{} is the image of {}", image.id, users.join(", ")),
            )
            .hint("remove the container first, or the image with -f: what the container stands on stays"));
        }
        Ok(Removal::Image(image))
    }

    /// Removes one name, or an image with all its names. Answers the entries that went.
    pub fn take(&mut self, removal: &Removal) -> Vec<Image> {
        match removal {
            Removal::Name(image) => self.remove(|other| other == image),
            Removal::Image(image) => self.remove_id(&image.id),
        }
    }

    /// Removes exactly this entry, if it is still there. Answers whether it was.
    pub fn remove_entry(&mut self, image: &Image) -> bool {
        !self.remove(|other| other == image).is_empty()
    }

    /// Removes all entries of an image. Answers what was removed.
    pub fn remove_id(&mut self, id: &Id) -> Vec<Image> {
        self.remove(|image| image.id == *id)
    }
}

impl Image {
    /// Whether the text is the name of this entry, and not an id or a digest.
    fn is_named(&self, text: &str) -> bool {
        let Some(name) = &self.reference else {
            return false;
        };
        name == text || Reference::parse(text).is_ok_and(|text| text.to_string() == *name)
    }

    /// Whether `name@digest` means this image: the digest is its manifest's or its index's, the repository the same.
    fn has_digest_of(&self, reference: &Reference) -> bool {
        let Version::Digest(digest) = reference.version() else {
            return false;
        };
        let name = self
            .reference
            .as_deref()
            .and_then(|name| Reference::parse(name).ok());
        (self.digest == *digest || self.source.as_ref() == Some(digest))
            && name.is_some_and(|name| name.repository() == reference.repository())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: Option<&str>, content: &str) -> Image {
        let digest = Digest::of(content.as_bytes());
        Image {
            id: Id::from_hex(Prefix::Image, digest.hex()).unwrap(),
            reference: name.map(|name| Reference::parse(name).unwrap().to_string()),
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            digest,
            size: content.len() as u64,
            platform: Some(Platform {
                os: "linux".into(),
                architecture: "amd64".into(),
                variant: None,
            }),
            source: None,
        }
    }

    #[test]
    fn an_image_is_found_by_id_reference_digest_and_the_beginning_of_its_id() {
        let mut index = Index::empty();
        let mut wanted = image(Some("busybox:1"), "a");
        wanted.source = Some(Digest::of(b"the index"));
        index.put(&image(Some("other"), "b"));
        index.put(&wanted);
        let id = wanted.id.as_str();
        let by_source = format!("busybox@{}", Digest::of(b"the index"));
        let by_digest = format!("busybox@{}", wanted.digest);
        for text in [
            id,
            &id[..6],
            &wanted.digest.as_str()[..12],
            "busybox:1",
            "docker.io/library/busybox:1",
            wanted.digest.as_str(),
            &by_source,
            &by_digest,
        ] {
            assert_eq!(index.find(text).unwrap(), wanted, "{text}");
        }
        for text in [
            "",
            "img_",
            "i",
            "sha256:",
            "sha256:0g",
            "busybox",
            "busybox:2",
            "localhost/busybox:1",
            &format!("other@{}", wanted.digest),
        ] {
            let error = index.find(text).unwrap_err();
            assert_eq!(error.to_string(), format!("No image named '{text}' exists"));
        }
    }

    #[test]
    fn the_beginning_of_two_ids_is_refused_by_naming_both() {
        let mut index = Index::empty();
        for (id, content) in [("img_aaaaa1", "a"), ("img_aaaaa2", "b")] {
            index.put(&Image {
                id: Id::parse(id).unwrap(),
                ..image(Some(&format!("x:{content}")), content)
            });
        }
        let error = index.find("img_aaa").unwrap_err();
        assert_eq!(*error.kind(), Kind::Invalid);
        assert!(error.to_string().contains("img_aaaaa1, img_aaaaa2"));
    }

    #[test]
    fn a_name_that_moves_on_leaves_the_former_image_without_a_name() {
        let mut index = Index::empty();
        index.put(&image(Some("busybox:1"), "old"));
        index.put(&image(Some("busybox:1"), "new"));
        assert_eq!(
            index.images(),
            [image(None, "old"), image(Some("busybox:1"), "new")]
        );
        // It gets its name back: no nameless entry is left of it.
        index.put(&image(Some("busybox:1"), "old"));
        assert_eq!(
            index.images(),
            [image(None, "new"), image(Some("busybox:1"), "old")]
        );
    }

    #[test]
    fn a_second_name_is_a_second_entry_with_the_same_id() {
        let mut index = Index::empty();
        index.put(&image(Some("a"), "x"));
        assert_eq!(
            index.id_for(&Digest::of(b"x")).unwrap(),
            image(None, "x").id
        );
        index.put(&image(Some("b"), "x"));
        assert_eq!(index.images().len(), 2);
        assert_eq!(
            index.remove_reference("docker.io/library/a:latest").len(),
            1
        );
        assert_eq!(index.remove_id(&image(None, "x").id).len(), 1);
        assert!(index.images().is_empty());
    }

    #[test]
    fn an_image_of_several_names_loses_the_one_it_is_called_by_and_is_not_removed_by_its_id_unless_forced()
     {
        let mut index = Index::empty();
        let [a, b] = ["a", "b"].map(|name| image(Some(name), "x"));
        index.put(&a);
        index.put(&b);
        let id = a.id.as_str();
        for text in [id, a.digest.as_str(), &id[..7]] {
            let error = index.removal(text, false).unwrap_err();
            assert_eq!(error.kind(), &Kind::InUse, "{text}");
            let forced = index.removal(text, true).unwrap();
            assert_eq!(forced, Removal::Image(a.clone()));
        }
        for text in ["b", "docker.io/library/b:latest"] {
            assert_eq!(
                index.removal(text, false).unwrap(),
                Removal::Name(b.clone())
            );
        }
        let name = index.removal("b", true).unwrap();
        assert_eq!(index.take(&name), [b]);
        let last = index.removal("a", false).unwrap();
        assert_eq!(last, Removal::Image(a.clone()));
        assert_eq!(index.take(&last), [a]);
        assert!(index.images().is_empty());
    }

    #[test]
    fn an_id_that_another_image_has_is_not_given_again() {
        let mut index = Index::empty();
        let digest = Digest::of(b"new");
        let taken = Id::from_hex(Prefix::Image, digest.hex()).unwrap();
        index.put(&Image {
            id: taken.clone(),
            ..image(Some("a"), "old")
        });
        assert_ne!(index.id_for(&digest).unwrap(), taken);
    }

    #[test]
    fn a_commit_points_every_name_at_the_new_manifest_under_the_same_id() {
        let mut index = Index::empty();
        let old = image(Some("a"), "old");
        index.put(&old);
        index.put(&image(Some("b"), "old"));
        let to = Descriptor {
            media_type: "m".into(),
            digest: Digest::of(b"new"),
            size: 3,
            annotations: BTreeMap::new(),
            platform: None,
        };
        assert!(index.repoint(&old.id, &to));
        assert!(
            index
                .images()
                .iter()
                .all(|image| image.id == old.id && image.digest == to.digest)
        );
        assert_eq!(index.images().len(), 2);
    }

    #[test]
    fn what_others_wrote_is_kept_and_what_is_not_understood_is_passed_over() {
        let digest = Digest::of(b"umoci");
        let text = format!(
            r#"{{"schemaVersion":2,"theirs":1.50,"manifests":[{{"mediaType":"m","digest":"sha512:00","size":1}},{{"mediaType":"m","digest":"{digest}","size":5,"theirs":{{"a":[]}},"annotations":{{"org.opencontainers.image.ref.name":"Not A Reference"}}}}]}}"#
        );
        let mut index = Index::parse(text.as_bytes()).unwrap();
        assert_eq!(index.images().len(), 1);
        assert_eq!(
            index.find("Not A Reference").unwrap().id,
            Id::from_hex(Prefix::Image, digest.hex()).unwrap()
        );
        index.put(&image(Some("a"), "x"));
        assert_eq!(
            index.remove_reference("docker.io/library/a:latest").len(),
            1
        );
        assert_eq!(String::from_utf8(index.to_bytes().unwrap()).unwrap(), text);
    }
}
