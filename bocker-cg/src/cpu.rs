//! The cpu controller: a weight (shares) and a cap (quota of a period); and cpuacct, which counts.
//! Kernel documentation: scheduler/sched-bwc, admin-guide/cgroup-v1/cpuacct, admin-guide/cgroup-v2 ("CPU").

use std::path::Path;

use bocker_pipe::{Error, Kind, Result};
use serde_json::{Value, json};

use crate::controller::{Interface, Setting};
use crate::request::{Request, out_of_range};

pub(crate) const NAME: &str = "cpu";
pub(crate) const ACCOUNTING: &str = "cpuacct";
pub(crate) const RESOURCES: &str = "cpu";
pub(crate) const WHY: &str = "shares CPU time out between groups, and caps it";
pub(crate) const WHY_ACCOUNTING: &str = "counts the CPU time that the container has used";

const SHARES: &str = "cpu.shares";
const USAGE: &str = "cpuacct.usage";
const WEIGHT: &str = "cpu.weight";
/// Quota and period in one.
const BANDWIDTH: &str = "cpu.max";
const PERIOD_FILE: &str = "cpu.cfs_period_us";
const QUOTA: &str = "cpu.cfs_quota_us";

/// The kernel clamps weights beyond these without a word (MIN_SHARES and MAX_SHARES, kernel/sched/sched.h).
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 1 << 18;
/// The range of [`WEIGHT`] (CGROUP_WEIGHT_MIN and CGROUP_WEIGHT_MAX, linux/cgroup.h).
const MIN_WEIGHT: u64 = 1;
const MAX_WEIGHT: u64 = 10_000;
/// The length of a period in microseconds: the kernel's default, and Docker's for --cpus.
const PERIOD: u64 = 100_000;
/// The smallest quota that the kernel takes, in microseconds (min_cfs_quota_period, kernel/sched/core.c).
const MIN_QUOTA: u64 = 1_000;
/// The most CPUs that Linux runs on (NR_CPUS of x86-64); more than the machine has is no limit, as on a smaller machine.
const MAX_CPUS: u64 = 8192;

/// Checks a weight.
pub(crate) fn check_shares(shares: u64) -> Result<()> {
    if (MIN_SHARES..=MAX_SHARES).contains(&shares) {
        return Ok(());
    }
    let range = format!("{MIN_SHARES} to {MAX_SHARES}");
    Err(out_of_range("--cpu-shares", &shares.to_string(), &range))
}

/// The microseconds of each period that so many CPUs are: `0.5` is 50000. Decimal digits and one point, no sign, no
/// exponent; what is finer than a microsecond is cut off.
pub(crate) fn quota(cpus: &str) -> Result<u64> {
    let malformed = || {
        Error::new(
            Kind::Invalid,
            format!("'{cpus}' is not a number of CPUs (--cpus)"),
        )
        .hint("write it as 2, 1.5 or 0.25")
    };
    let range = || out_of_range("--cpus", cpus, "0.01 to 8192");
    let (whole, fraction) = cpus.split_once('.').unwrap_or((cpus, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !digits(whole) || !digits(fraction) {
        return Err(malformed());
    }
    let whole: u64 = match whole.trim_start_matches('0') {
        "" => 0,
        text => text.parse().map_err(|_| range())?,
    };
    // The first five digits of a fraction are microseconds of the period.
    let fraction: u64 = format!("{fraction:0<5.5}")
        .parse()
        .map_err(|_| malformed())?;
    let quota = whole
        .checked_mul(PERIOD)
        .and_then(|us| us.checked_add(fraction))
        .ok_or_else(range)?;
    if (MIN_QUOTA..=MAX_CPUS * PERIOD).contains(&quota) {
        Ok(quota)
    } else {
        Err(range())
    }
}

fn asked_quota(request: &Request) -> Option<u64> {
    // What is malformed was refused when the request was validated.
    request.cpus.as_deref().and_then(|cpus| quota(cpus).ok())
}

/// The weight on v2 of so many shares, as runc has it since 1.3.2 and crun since 1.23: a curve through the least, the
/// default (1024 is 100) and the most of both, where a straight line would make 39 of the default.
/// <https://github.com/opencontainers/cgroups/pull/20>
fn weight(shares: u64) -> u64 {
    if shares <= MIN_SHARES {
        return MIN_WEIGHT;
    }
    if shares >= MAX_SHARES {
        return MAX_WEIGHT;
    }
    let l = (shares as f64).log2();
    let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
    10f64.powf(exponent).ceil() as u64
}

pub(crate) const V1: Interface = Interface {
    shown_by: Some(SHARES),
    settings: v1,
};
pub(crate) const V1_ACCOUNTING: Interface = Interface {
    shown_by: Some(USAGE),
    settings: Interface::nothing,
};
pub(crate) const V2: Interface = Interface {
    shown_by: Some(WEIGHT),
    settings: v2,
};

fn v1(request: &Request, _: &Path) -> Vec<Setting> {
    let mut settings = Vec::new();
    if let Some(shares) = request.cpu_shares {
        settings.push(Setting::new(SHARES, shares));
    }
    if let Some(quota) = asked_quota(request) {
        settings.push(Setting::new(PERIOD_FILE, PERIOD));
        settings.push(Setting::new(QUOTA, quota));
    }
    settings
}

fn v2(request: &Request, _: &Path) -> Vec<Setting> {
    let mut settings = Vec::new();
    if let Some(shares) = request.cpu_shares {
        settings.push(Setting::new(WEIGHT, weight(shares)));
    }
    if let Some(quota) = asked_quota(request) {
        settings.push(Setting::new(BANDWIDTH, format!("{quota} {PERIOD}")));
    }
    settings
}

pub(crate) fn resources(request: &Request) -> Option<Value> {
    let mut cpu = serde_json::Map::new();
    if let Some(shares) = request.cpu_shares {
        cpu.insert("shares".into(), json!(shares));
    }
    if let Some(quota) = asked_quota(request) {
        cpu.insert("quota".into(), json!(quota));
        cpu.insert("period".into(), json!(PERIOD));
    }
    (!cpu.is_empty()).then_some(Value::Object(cpu))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn so_many_cpus_are_so_many_microseconds_of_a_period() {
        for (cpus, us) in [
            ("1", 100_000),
            ("0.5", 50_000),
            (".5", 50_000),
            ("2.", 200_000),
            ("1.5", 150_000),
            ("0.01", 1_000),
            ("0.333333333", 33_333),
            ("0001.10", 110_000),
            ("8192", 819_200_000),
        ] {
            assert_eq!(quota(cpus).unwrap(), us, "{cpus}");
        }
    }

    #[test]
    fn absurd_numbers_of_cpus_are_refused() {
        for cpus in [
            "",
            ".",
            "0",
            "0.0",
            "0.009",
            "-1",
            "+1",
            "1+1",
            "a[$(id)]",
            "1e3",
            "0x1",
            "1.5.5",
            " 1",
            "inf",
            "NaN",
            "8193",
            "99999999999999999999999999",
            "\u{661}",
        ] {
            assert_eq!(quota(cpus).unwrap_err().kind(), &Kind::Invalid, "{cpus:?}");
        }
    }

    #[test]
    fn a_weight_that_the_kernel_would_change_is_refused() {
        assert!(check_shares(2).is_ok() && check_shares(262_144).is_ok());
        for shares in [0, 1, 262_145, u64::MAX] {
            assert!(check_shares(shares).is_err(), "{shares}");
        }
    }

    #[test]
    fn shares_become_the_weight_that_runc_makes_of_them() {
        // What opencontainers/cgroups and crun test, and the examples of Kubernetes' announcement.
        for (shares, expected) in [
            (0, 1),
            (2, 1),
            (102, 17),
            (512, 59),
            (1024, 100),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }

    #[test]
    fn version_2_has_one_file_for_quota_and_period() {
        let request = Request {
            cpu_shares: Some(1024),
            cpus: Some("1.5".into()),
            ..Request::default()
        };
        let expected = [
            Setting::new("cpu.weight", 100),
            Setting::new("cpu.max", "150000 100000"),
        ];
        assert_eq!(v2(&request, Path::new("/")), expected);
        assert_eq!(v2(&Request::default(), Path::new("/")), []);
    }

    proptest! {
        #[test]
        fn more_shares_are_never_less_weight(shares in MIN_SHARES..MAX_SHARES) {
            prop_assert!((MIN_WEIGHT..=MAX_WEIGHT).contains(&weight(shares)));
            prop_assert!(weight(shares) <= weight(shares + 1));
        }

        #[test]
        fn any_text_is_a_quota_in_range_or_an_error(text in "\\PC*") {
            if let Ok(us) = quota(&text) {
                prop_assert!((MIN_QUOTA..=MAX_CPUS * PERIOD).contains(&us));
            }
        }

        #[test]
        fn hundredths_of_a_cpu_are_exact(hundredths in 1u64..=819_200) {
            let text = format!("{}.{:02}", hundredths / 100, hundredths % 100);
            prop_assert_eq!(quota(&text).unwrap(), hundredths * 1000);
        }
    }
}
