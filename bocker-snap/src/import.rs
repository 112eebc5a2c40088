//! `import`: unpacks the layers of an image, so that containers begin at once; in a pipe from bocker-pull, while it downloads them.

use bocker_pipe::incoming::Incoming;
use bocker_pipe::layout::{Digest, Image, Layout};
use bocker_pipe::step::interruption;
use bocker_pipe::{Arg, Call, Document, Error, Kind, Result};

use crate::driver::Driver;
use crate::image::{self, ImageMember, Unpacked};
use crate::stack::Stack;

struct Context {
    /// What is known of it; a document that is still to come may know its name.
    image: ImageMember,
    is_named: bool,
    stack: Stack,
}

/// `import [IMAGE]`: of the image that is named, or of the one that bocker-pull writes about.
pub(crate) fn import(call: &mut Call) -> Result<()> {
    let mut named: Option<Image> = None;
    let layout = Layout::open();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => return Err(call.unknown(&option)),
            Arg::Value(word) => {
                if named.is_some() {
                    return Err(call.unexpected(&word));
                }
                call.adopt(Document::new());
                named = Some(layout.find(&word.to_string_lossy())?);
            }
        }
    }
    let context = match named {
        Some(image) => Context::new(image::read(&layout, &image)?, true, None)?,
        None => {
            let incoming = call.incoming()?;
            match incoming.manifest(interruption)? {
                Some(digest) => {
                    let unpacked = image::read_manifest(&layout, &Digest::parse(&digest)?)?;
                    Context::new(unpacked, false, Some(incoming))?
                }
                None => {
                    let image = of_document(&layout, call.document()?)?;
                    Context::new(image::read(&layout, &image)?, true, None)?
                }
            }
        }
    };
    let steps = context
        .stack
        .steps(|c: &Context| &c.stack, |c| &mut c.stack);
    call.create(context, steps, finish)
}

impl Context {
    fn new(image: Unpacked, is_named: bool, incoming: Option<Incoming>) -> Result<Context> {
        Ok(Context {
            image: image.member,
            is_named,
            stack: Stack::new(Driver::here(), image.layers, incoming)?,
        })
    }
}

fn of_document(layout: &Layout, document: &Document) -> Result<Image> {
    image::of_document(layout, document)?.ok_or_else(|| {
        Error::new(Kind::Document, "the document names no image (bocker.image)")
            .hint("begin with 'bocker-pull REFERENCE', or name an image that is here")
    })
}

fn finish(document: &mut Document, context: &Context) -> Result<()> {
    let mut member = context.image.clone();
    if !context.is_named {
        let image = of_document(&Layout::open(), document)?;
        if member.digest.as_ref() != Some(&image.digest) {
            return Err(Error::new(
                Kind::Document,
                "the document names another image than the lines before it",
            ));
        }
        (member.id, member.reference) = (Some(image.id), image.reference);
    }
    document.set_member("image", &member);
    Ok(())
}
