//! `import`: unpacks the layers of an image, so that containers begin at once.

use bocker_pipe::layout::{Image, Layout};
use bocker_pipe::step::quote;
use bocker_pipe::{Arg, Call, Document, Error, Kind, Result, Step};

use crate::driver::Driver;
use crate::image::{self, Unpacked};
use crate::layers::{self, Keep};

struct Context {
    driver: Driver,
    image: Unpacked,
    keep: Option<Keep>,
}

/// `import [IMAGE]`: of the image that is named, or of the one in the document that bocker-pull wrote.
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
    let document = call.document()?;
    let image = match named {
        Some(image) => image,
        None => image::of_document(&layout, document)?.ok_or_else(|| {
            Error::new(Kind::Document, "the document names no image (bocker.image)")
                .hint("begin with 'bocker-pull REFERENCE', or name an image that is here")
        })?,
    };
    let context = Context {
        driver: Driver::here(),
        image: image::read(&layout, &image)?,
        keep: None,
    };
    let steps = steps(&context);
    call.create(context, steps, |document, context| {
        document.set_member("image", &context.image.member);
        Ok(())
    })
}

fn steps(context: &Context) -> Vec<Step<Context>> {
    let missing = layers::missing(context.driver, &context.image.layers);
    missing.into_iter().map(layer_step).collect()
}

fn layer_step(index: usize) -> Step<Context> {
    Step::new(
        "snap.layer",
        "a layer is unpacked once, and shared by all containers and images above it",
    )
    .command(move |c: &Context| layers::import_commands(c.driver, &c.image.layers[index]))
    .look(move |c| {
        let path = layers::path(&c.image.layers[index].chain_id);
        format!("ls -l {}", quote(&path.display().to_string()))
    })
    .apply(move |c| {
        if c.keep.is_none() {
            c.keep = Some(Keep::take()?);
        }
        let layers = &c.image.layers;
        let below: Vec<_> = layers[..index]
            .iter()
            .map(|layer| layer.chain_id.clone())
            .collect();
        layers::import(c.driver, &Layout::open(), &below, &layers[index])
    })
}
