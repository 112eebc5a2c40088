//! The devices controller: which device nodes may be made, read and written, whatever nodes a file system holds.
//! On v1 the kernel keeps a list of rules; on v2 it asks a program, which is made from the same rules.
//! Kernel documentation: admin-guide/cgroup-v1/devices, admin-guide/cgroup-v2 ("Device controller").
//! The list is Docker's: moby daemon/pkg/oci/defaults.go and what runc adds to it (libcontainer/specconv AllowedDevices).

use std::path::Path;

use serde_json::{Value, json};

use crate::controller::{Interface, Setting};
use crate::device_filter::{BLOCK, CHARACTER, Filter, MKNOD, READ, Rule, WRITE};
use crate::request::{Devices, Request};

pub(crate) const NAME: &str = "devices";
pub(crate) const RESOURCES: &str = "devices";
pub(crate) const WHY: &str =
    "lets the container use the harmless devices only, whatever nodes it finds or makes";

const LIST: &str = "devices.list";
const DENY: &str = "devices.deny";
const ALLOW: &str = "devices.allow";
/// Every device there is.
const EVERYTHING: &str = "a";

/// What is allowed; all else is denied. Making nodes is harmless while they cannot be opened.
const ALLOWED: [Rule; 11] = [
    rule(CHARACTER, None, None, MKNOD),
    rule(BLOCK, None, None, MKNOD),
    rule(CHARACTER, Some(1), Some(3), ALL), // null
    rule(CHARACTER, Some(1), Some(5), ALL), // zero
    rule(CHARACTER, Some(1), Some(7), ALL), // full
    rule(CHARACTER, Some(1), Some(8), ALL), // random
    rule(CHARACTER, Some(1), Some(9), ALL), // urandom
    rule(CHARACTER, Some(5), Some(0), ALL), // tty
    rule(CHARACTER, Some(5), Some(1), ALL), // console
    rule(CHARACTER, Some(5), Some(2), ALL), // ptmx
    rule(CHARACTER, Some(136), None, ALL),  // pts/*
];
const ALL: u32 = READ | WRITE | MKNOD;

const fn rule(kind: u32, major: Option<u32>, minor: Option<u32>, access: u32) -> Rule {
    Rule {
        kind,
        major,
        minor,
        access,
    }
}

pub(crate) const V1: Interface = Interface {
    shown_by: Some(LIST),
    settings: v1,
};
pub(crate) const V2: Interface = Interface {
    shown_by: None,
    settings: v2,
};

fn v1(request: &Request, _: &Path) -> Vec<Setting> {
    match request.devices.unwrap_or_default() {
        Devices::All => Vec::new(),
        Devices::Default => std::iter::once(Setting::new(DENY, EVERYTHING))
            .chain(ALLOWED.iter().map(|rule| Setting::new(ALLOW, rule)))
            .collect(),
    }
}

fn v2(request: &Request, _: &Path) -> Vec<Setting> {
    match request.devices.unwrap_or_default() {
        Devices::All => Vec::new(),
        Devices::Default => vec![Setting::Attach(Filter::new(&ALLOWED))],
    }
}

pub(crate) fn resources(request: &Request) -> Value {
    let choice = request.devices.unwrap_or_default();
    let mut rules = vec![json!({"allow": choice == Devices::All, "access": "rwm"})];
    if choice == Devices::Default {
        for rule in &ALLOWED {
            let mut value = json!({"allow": true, "type": rule.letter()});
            for (name, number) in [("major", rule.major), ("minor", rule.minor)] {
                if let Some(number) = number {
                    value[name] = number.into();
                }
            }
            value["access"] = rule.accesses().into();
            rules.push(value);
        }
    }
    Value::Array(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_denied_before_anything_is_allowed() {
        let settings = v1(&Request::default(), Path::new("/"));
        assert_eq!(settings[0], Setting::new("devices.deny", "a"));
        assert_eq!(settings[1], Setting::new("devices.allow", "c *:* m"));
        assert_eq!(settings[11], Setting::new("devices.allow", "c 136:* rwm"));
        assert_eq!(settings.len(), 12);
    }

    #[test]
    fn the_oci_rules_say_the_same_as_the_writes() {
        let rules = resources(&Request::default());
        let number = |v: &Value| v.as_u64().map_or("*".to_owned(), |n| n.to_string());
        let written: Vec<String> = rules.as_array().unwrap()[1..]
            .iter()
            .map(|r| {
                let (kind, access) = (r["type"].as_str().unwrap(), r["access"].as_str().unwrap());
                format!(
                    "{kind} {}:{} {access}",
                    number(&r["major"]),
                    number(&r["minor"])
                )
            })
            .collect();
        let expected: Vec<String> = ALLOWED.iter().map(Rule::to_string).collect();
        assert_eq!(written, expected);
        assert_eq!(rules[0], json!({"allow": false, "access": "rwm"}));
    }

    #[test]
    fn all_devices_need_neither_list_nor_program() {
        let request = Request {
            devices: Some(Devices::All),
            ..Request::default()
        };
        for settings in [v1, v2] {
            assert_eq!(settings(&request, Path::new("/")), []);
        }
        assert_eq!(
            resources(&request),
            json!([{"allow": true, "access": "rwm"}])
        );
    }
}
