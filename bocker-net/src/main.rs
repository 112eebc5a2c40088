//! The program; the work is in the library.

#![no_main]

bocker_pipe::program!(bocker_net::main);
