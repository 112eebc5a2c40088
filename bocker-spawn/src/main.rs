//! `bocker-spawn`: see the library.

#![no_main]

bocker_pipe::program!(|| bocker_pipe::tool::main(&bocker_spawn::TOOL));
