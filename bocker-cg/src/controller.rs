//! The controllers that bocker-cg uses, and what each version of cgroups has for them.

use std::path::Path;

use bocker_pipe::step::quote;
use serde_json::Value;

use crate::device_filter::Filter;
use crate::hierarchies::Version;
use crate::request::Request;
use crate::{cpu, devices, freezer, memory, pids};

/// One controller.
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

/// What a version of cgroups has for a controller.
pub(crate) struct Interface {
    /// The file of a group that shows what was set; on v2 no file shows which devices there are.
    pub(crate) shown_by: Option<&'static str>,
    /// What is set in a new group beneath this folder, in order.
    pub(crate) settings: fn(&Request, &Path) -> Vec<Setting>,
}

impl Interface {
    /// Of one that only counts, or only obeys later.
    pub(crate) fn nothing(_: &Request, _: &Path) -> Vec<Setting> {
        Vec::new()
    }
}

/// One thing that is set in a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Setting {
    /// The value is written to the file, in one write(2).
    Write { file: &'static str, value: String },
    /// The program is attached.
    Attach(Filter),
}

impl Setting {
    /// What is written to a file of the group.
    pub(crate) fn new(file: &'static str, value: impl ToString) -> Setting {
        Setting::Write {
            file,
            value: value.to_string(),
        }
    }

    /// The command that does the same to a group.
    pub(crate) fn command(&self, group: &Path) -> String {
        match self {
            Setting::Write { file, value } => {
                let file = group.join(file).display().to_string();
                format!("echo {} > {}", quote(value), quote(&file))
            }
            Setting::Attach(filter) => {
                format!("# bpf: to {} is attached: {filter}", group.display())
            }
        }
    }
}

impl Controller {
    /// The kernel's name for it: on v1 a mount option, on v2 a word of cgroup.controllers, on both the beginning of its files.
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

    /// The step that sets its limits, and on v1 makes its group.
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

    fn interface(self, version: Version) -> Interface {
        match (self, version) {
            (Controller::Cpu, Version::V1) => cpu::V1,
            (Controller::Cpu, Version::V2) => cpu::V2,
            (Controller::Cpuacct, _) => cpu::V1_ACCOUNTING,
            (Controller::Memory, Version::V1) => memory::V1,
            (Controller::Memory, Version::V2) => memory::V2,
            (Controller::Pids, _) => pids::BOTH,
            (Controller::Devices, Version::V1) => devices::V1,
            (Controller::Devices, Version::V2) => devices::V2,
            (Controller::Freezer, Version::V1) => freezer::V1,
            (Controller::Freezer, Version::V2) => freezer::V2,
        }
    }

    /// What is set in a new group beneath `parent`, in order.
    pub(crate) fn settings(
        self,
        version: Version,
        request: &Request,
        parent: &Path,
    ) -> Vec<Setting> {
        (self.interface(version).settings)(request, parent)
    }

    /// The command that shows what was set in a group.
    pub(crate) fn look(self, version: Version, group: &Path) -> String {
        match self.interface(version).shown_by {
            Some(file) => format!("cat {}", quote(&group.join(file).display().to_string())),
            None => format!(
                "bpftool cgroup show {}",
                quote(&group.display().to_string())
            ),
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
        version: Version,
        request: &Request,
        parent: &Path,
    ) -> Option<(&'static str, Value)> {
        match self {
            Controller::Cpu => cpu::resources(request).map(|v| (cpu::RESOURCES, v)),
            Controller::Memory => {
                memory::resources(version, request, parent).map(|v| (memory::RESOURCES, v))
            }
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
