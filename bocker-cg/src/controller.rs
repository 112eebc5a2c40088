//! The controllers that bocker-cg uses: what each one wants written for a request.

use std::path::Path;

use serde_json::Value;

use crate::request::Request;
use crate::{cpu, devices, freezer, memory, pids};

/// One controller of cgroup v1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Controller {
    Cpu,
    Cpuacct,
    Memory,
    Pids,
    Devices,
    Freezer,
}

/// All of them, in the order in which groups are made.
pub(crate) const ALL: [Controller; 6] = [
    Controller::Cpu,
    Controller::Cpuacct,
    Controller::Memory,
    Controller::Pids,
    Controller::Devices,
    Controller::Freezer,
];

/// One write to a file of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The file's name.
    pub(crate) file: &'static str,
    /// What is written, in one write(2).
    pub(crate) value: String,
}

impl Setting {
    pub(crate) fn new(file: &'static str, value: impl ToString) -> Setting {
        Setting {
            file,
            value: value.to_string(),
        }
    }
}

impl Controller {
    /// The kernel's name for it, which is a mount option and the beginning of its files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Controller::Cpu => cpu::NAME,
            Controller::Cpuacct => cpu::ACCOUNTING,
            Controller::Memory => memory::NAME,
            Controller::Pids => pids::NAME,
            Controller::Devices => devices::NAME,
            Controller::Freezer => freezer::NAME,
        }
    }

    /// The step that makes its group.
    pub(crate) fn step(self) -> &'static str {
        match self {
            Controller::Cpu => "cg.cpu",
            Controller::Cpuacct => "cg.cpuacct",
            Controller::Memory => "cg.memory",
            Controller::Pids => "cg.pids",
            Controller::Devices => "cg.devices",
            Controller::Freezer => "cg.freezer",
        }
    }

    /// Why a container has a group of it.
    pub(crate) fn why(self) -> &'static str {
        match self {
            Controller::Cpu => cpu::WHY,
            Controller::Cpuacct => cpu::WHY_ACCOUNTING,
            Controller::Memory => memory::WHY,
            Controller::Pids => pids::WHY,
            Controller::Devices => devices::WHY,
            Controller::Freezer => freezer::WHY,
        }
    }

    /// A file of a group that shows what was set.
    pub(crate) fn shown_by(self) -> &'static str {
        match self {
            Controller::Cpu => cpu::SHARES,
            Controller::Cpuacct => cpu::USAGE,
            Controller::Memory => memory::LIMIT,
            Controller::Pids => pids::MAX,
            Controller::Devices => devices::LIST,
            Controller::Freezer => freezer::STATE,
        }
    }

    /// What is written into a new group of the hierarchy at `mount`, in order.
    pub(crate) fn settings(self, request: &Request, mount: &Path) -> Vec<Setting> {
        match self {
            Controller::Cpu => cpu::settings(request),
            Controller::Memory => memory::settings(request, mount),
            Controller::Pids => pids::settings(request),
            Controller::Devices => devices::settings(request),
            Controller::Cpuacct | Controller::Freezer => Vec::new(),
        }
    }

    /// The options that asked for this controller, if any did: without them a machine may lack it.
    pub(crate) fn asked_by(self, request: &Request) -> Option<&'static str> {
        match self {
            Controller::Cpu if request.cpus.is_some() => Some("--cpus"),
            Controller::Cpu if request.cpu_shares.is_some() => Some("--cpu-shares"),
            Controller::Memory if request.memory.as_ref().is_some_and(|m| !m.default) => {
                Some("--memory")
            }
            Controller::Pids if request.pids.is_some() => Some("--pids-limit"),
            _ => None,
        }
    }

    /// The member of the OCI `linux.resources` that says the same, by its name.
    pub(crate) fn resources(
        self,
        request: &Request,
        mount: &Path,
    ) -> Option<(&'static str, Value)> {
        match self {
            Controller::Cpu => cpu::resources(request).map(|v| (cpu::RESOURCES, v)),
            Controller::Memory => memory::resources(request, mount).map(|v| (memory::RESOURCES, v)),
            Controller::Pids => pids::resources(request).map(|v| (pids::RESOURCES, v)),
            Controller::Devices => Some((devices::RESOURCES, devices::resources(request))),
            Controller::Cpuacct | Controller::Freezer => None,
        }
    }
}

/// The members of `linux.resources` that bocker-cg owns.
pub(crate) const RESOURCES: [&str; 4] = [
    cpu::RESOURCES,
    memory::RESOURCES,
    pids::RESOURCES,
    devices::RESOURCES,
];
