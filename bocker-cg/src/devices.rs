//! The devices controller: which device nodes may be made, read and written, whatever nodes a file system holds.
//! Kernel documentation: admin-guide/cgroup-v1/devices.
//! The list is Docker's: moby daemon/pkg/oci/defaults.go and what runc adds to it (libcontainer/specconv AllowedDevices).

use serde_json::{Value, json};

use crate::controller::Setting;
use crate::request::{Devices, Request};

pub(crate) const NAME: &str = "devices";
pub(crate) const RESOURCES: &str = "devices";
pub(crate) const WHY: &str =
    "lets the container use the harmless devices only, whatever nodes it finds or makes";

pub(crate) const LIST: &str = "devices.list";
const DENY: &str = "devices.deny";
const ALLOW: &str = "devices.allow";
/// Every device there is.
const EVERYTHING: &str = "a";

/// A rule: type, major and minor (`None` is any), access.
type Rule = (&'static str, Option<u32>, Option<u32>, &'static str);

/// What is allowed; all else is denied. Making nodes is harmless while they cannot be opened.
const ALLOWED: [Rule; 11] = [
    ("c", None, None, "m"),
    ("b", None, None, "m"),
    ("c", Some(1), Some(3), "rwm"), // null
    ("c", Some(1), Some(5), "rwm"), // zero
    ("c", Some(1), Some(7), "rwm"), // full
    ("c", Some(1), Some(8), "rwm"), // random
    ("c", Some(1), Some(9), "rwm"), // urandom
    ("c", Some(5), Some(0), "rwm"), // tty
    ("c", Some(5), Some(1), "rwm"), // console
    ("c", Some(5), Some(2), "rwm"), // ptmx
    ("c", Some(136), None, "rwm"),  // pts/*
];

fn text((kind, major, minor, access): &Rule) -> String {
    let number = |n: &Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
    format!("{kind} {}:{} {access}", number(major), number(minor))
}

pub(crate) fn settings(request: &Request) -> Vec<Setting> {
    match request.devices.unwrap_or_default() {
        Devices::All => Vec::new(),
        Devices::Default => std::iter::once(Setting::new(DENY, EVERYTHING))
            .chain(ALLOWED.iter().map(|rule| Setting::new(ALLOW, text(rule))))
            .collect(),
    }
}

pub(crate) fn resources(request: &Request) -> Value {
    let choice = request.devices.unwrap_or_default();
    let mut rules = vec![json!({"allow": choice == Devices::All, "access": "rwm"})];
    if choice == Devices::Default {
        for (kind, major, minor, access) in ALLOWED {
            let mut rule = json!({"allow": true, "type": kind});
            for (name, number) in [("major", major), ("minor", minor)] {
                if let Some(number) = number {
                    rule[name] = number.into();
                }
            }
            rule["access"] = access.into();
            rules.push(rule);
        }
    }
    Value::Array(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_denied_before_anything_is_allowed() {
        let settings = settings(&Request::default());
        assert_eq!(settings[0], Setting::new("devices.deny", "a"));
        assert!(settings[1..].iter().all(|s| s.file == "devices.allow"));
        assert_eq!(settings[1].value, "c *:* m");
        assert_eq!(settings[11].value, "c 136:* rwm");
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
        let expected: Vec<String> = ALLOWED.iter().map(text).collect();
        assert_eq!(written, expected);
        assert_eq!(rules[0], json!({"allow": false, "access": "rwm"}));
    }
}
