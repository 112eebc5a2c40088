//! bocker-pull: a registry's image into the local image store.

#![no_main]

bocker_pipe::program!(|| bocker_pipe::tool::main(&bocker_pull::TOOL));
