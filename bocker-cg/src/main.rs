//! bocker-cg: control groups for containers.

#![no_main]

bocker_pipe::program!(|| bocker_pipe::tool::main(&bocker_cg::TOOL));
