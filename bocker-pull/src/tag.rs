//! The verb `tag`: one more name for an image.

use bocker_pipe::events::{Event, Type};
use bocker_pipe::layout::{Change, Image, Layout};
use bocker_pipe::reference::{Reference, Version};
use bocker_pipe::{Call, Error, Kind, Result, Step};

use crate::list::{Line, words};

/// `tag IMAGE REFERENCE`. What had the name before loses it.
pub(crate) fn tag(call: &mut Call) -> Result<()> {
    let words = words(call)?;
    let [image, name] = &words[..] else {
        return Err(Error::new(
            Kind::Usage,
            "an image and its new name have to be given",
        ));
    };
    let reference = Reference::parse(name)?;
    if matches!(reference.version(), Version::Digest(_)) {
        return Err(Error::new(
            Kind::Invalid,
            format!("'{name}' is a digest, which no image can be given"),
        ));
    }
    let layout = Layout::open();
    let found = layout.find(image)?;
    let mut tag = Tag {
        layout,
        tagged: Image {
            reference: Some(reference.to_string()),
            ..found
        },
        change: Change::default(),
    };
    call.run_steps(&mut tag, vec![index()])?;
    match call.dry_run() {
        true => Ok(()),
        false => {
            tell("tag", &tag.tagged);
            call.line(&Line::new(&tag.layout, tag.tagged))
        }
    }
}

/// What has happened to an image, by the name that it happened to.
pub(crate) fn tell(action: &str, image: &Image) {
    let name = image.reference.as_deref().unwrap_or_default();
    Event::new(Type::Image, action, &image.id)
        .name(name)
        .record();
}

struct Tag {
    layout: Layout,
    tagged: Image,
    change: Change,
}

fn index() -> Step<Tag> {
    Step::new(
        "pull.index",
        "one more entry in index.json, with the same manifest under another name",
    )
    .command(|c: &Tag| vec![c.tagged.entry_line()])
    .look(|c| c.layout.look_at_index())
    .apply(|c| {
        let tagged = &c.tagged;
        c.change.make(&c.layout.writer()?, |index| {
            index.find(tagged.digest.as_str())?;
            index.put(tagged);
            Ok(())
        })
    })
    .undo(|c| c.change.undo(&c.layout.writer()?))
}
