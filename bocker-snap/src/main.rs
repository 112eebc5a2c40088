//! The program; the work is in the library.

#![no_main]

use rustix::fs::Mode;

bocker_pipe::program!(|| {
    // What a layer does not name is made for everybody to see, whatever the caller wants for files of their own.
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    bocker_pipe::tool::main(&bocker_snap::TOOL)
});
