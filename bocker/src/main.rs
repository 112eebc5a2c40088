//! The command line that people type.

#![no_main]

bocker_pipe::program!(bocker::main);
