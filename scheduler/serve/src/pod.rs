//! What a pod in Kubernetes' JSON requests.
//!
//! As kube-scheduler counts it: the larger of any init container and the sum of all others
//! (sidecars among them), plus the overhead; requests of the pod as a whole come first. A quantity
//! that cannot be read counts as not requested: it never blocks a pod.

use nilometer_contract::ResourceKind;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde_json::Value;

use nilometer_placement::request::Request;

/// Cores in thousandths, and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Amount {
    cpu_millis: u64,
    memory_bytes: u64,
}

/// The request of a pod; fields that are missing or of another shape read as empty.
pub(crate) fn request_of(pod: &Value) -> Request {
    let text = |field: &str| {
        let text = pod["metadata"][field].as_str().unwrap_or_default();
        text.chars().take(253).collect::<String>()
    };
    let amount = amount_of(&pod["spec"]);
    Request {
        name: text("name"),
        project: text("namespace"),
        id: text("uid"),
        kind: ResourceKind::POD,
        cpu_millis: amount.cpu_millis,
        memory_bytes: amount.memory_bytes,
        attributes: Default::default(),
    }
}

fn amount_of(spec: &Value) -> Amount {
    let list = |field: &str| spec[field].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut running = Amount::default();
    let mut starting = Amount::default();
    for container in list("initContainers") {
        let wanted = requested(&container["resources"]);
        if container["restartPolicy"] == "Always" {
            running = running.plus(wanted);
            starting = starting.max(running);
        } else {
            starting = starting.max(running.plus(wanted));
        }
    }
    for container in list("containers") {
        running = running.plus(requested(&container["resources"]));
    }
    let mut total = running.max(starting);
    let whole = requested(&spec["resources"]);
    if whole.cpu_millis > 0 {
        total.cpu_millis = whole.cpu_millis;
    }
    if whole.memory_bytes > 0 {
        total.memory_bytes = whole.memory_bytes;
    }
    total.plus(amounts(&spec["overhead"]))
}

/// Requests, or limits where only those are given, as the API server defaults them.
fn requested(resources: &Value) -> Amount {
    let (requests, limits) = (amounts(&resources["requests"]), amounts(&resources["limits"]));
    let or = |request: u64, limit: u64| if request == 0 { limit } else { request };
    Amount {
        cpu_millis: or(requests.cpu_millis, limits.cpu_millis),
        memory_bytes: or(requests.memory_bytes, limits.memory_bytes),
    }
}

fn amounts(list: &Value) -> Amount {
    let read = |field: &str, scale: u32| {
        let text = match &list[field] {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => return 0,
        };
        quantity(&text, scale).unwrap_or(0)
    };
    Amount { cpu_millis: read("cpu", 1_000), memory_bytes: read("memory", 1) }
}

impl Amount {
    fn plus(self, other: Amount) -> Amount {
        Amount {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }

    fn max(self, other: Amount) -> Amount {
        Amount {
            cpu_millis: self.cpu_millis.max(other.cpu_millis),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
        }
    }
}

/// A Kubernetes quantity such as `500m`, `1.5`, `1Gi` or `2e9`, times `scale`, rounded up;
/// `None` if it is not one, is negative or does not fit.
pub(crate) fn quantity(text: &str, scale: u32) -> Option<u64> {
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, suffix) = text.split_at(digits);
    let number: Decimal = number.parse().ok()?;
    let power = |base: u64, exponent: u32| Some(Decimal::from(base.checked_pow(exponent)?));
    let factor = match suffix {
        "" => Decimal::ONE,
        "n" => Decimal::new(1, 9),
        "u" => Decimal::new(1, 6),
        "m" => Decimal::new(1, 3),
        "k" => power(1_000, 1)?,
        "M" => power(1_000, 2)?,
        "G" => power(1_000, 3)?,
        "T" => power(1_000, 4)?,
        "P" => power(1_000, 5)?,
        "E" => power(1_000, 6)?,
        "Ki" => power(1_024, 1)?,
        "Mi" => power(1_024, 2)?,
        "Gi" => power(1_024, 3)?,
        "Ti" => power(1_024, 4)?,
        "Pi" => power(1_024, 5)?,
        "Ei" => power(1_024, 6)?,
        other => {
            let exponent: i32 = other.strip_prefix(['e', 'E'])?.parse().ok()?;
            match u32::try_from(exponent) {
                Ok(exponent) => power(10, exponent)?,
                Err(_) if exponent >= -18 => Decimal::new(1, exponent.unsigned_abs()),
                Err(_) => return None,
            }
        }
    };
    number.checked_mul(factor)?.checked_mul(Decimal::from(scale))?.ceil().to_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        let cases = [
            ("500m", 1_000, Some(500)),
            ("1", 1_000, Some(1_000)),
            ("0.1", 1_000, Some(100)),
            ("1n", 1_000, Some(1)),
            ("2e3", 1, Some(2_000)),
            ("5E-1", 1_000, Some(500)),
            ("1Gi", 1, Some(1 << 30)),
            ("1.5Gi", 1, Some(3 << 29)),
            ("128M", 1, Some(128_000_000)),
            ("129e6", 1, Some(129_000_000)),
            ("4Ei", 1, Some(4 << 60)),
            ("2E", 1, Some(2_000_000_000_000_000_000)),
            ("", 1, None),
            ("-1", 1, None),
            ("1 Gi", 1, None),
            ("1e99", 1, None),
            ("99999999999999999999999999999999", 1, None),
        ];
        for (text, scale, expected) in cases {
            assert_eq!(quantity(text, scale), expected, "{text}");
        }
    }

    #[test]
    fn init_containers_and_sidecars_count_as_in_kube_scheduler() {
        let pod = serde_json::json!({"spec": {
            "initContainers": [
                {"resources": {"requests": {"cpu": "2", "memory": "64Mi"}}},
                {"restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
            ],
            "containers": [
                {"resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}},
                {"resources": {"limits": {"cpu": "250m"}}},
            ],
            "overhead": {"cpu": "50m", "memory": "32Mi"},
        }});
        let expected = Amount { cpu_millis: 2_050, memory_bytes: (1 << 30) + (32 << 20) };
        assert_eq!(amount_of(&pod["spec"]), expected);
        assert_eq!(amount_of(&Value::Null), Amount::default());
    }
}
