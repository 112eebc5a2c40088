//! `bocker-spawn`: see the library.

#![no_main]

bocker_pipe::program!(bocker_spawn::main);
