//! Samples as a Prometheus remote-write request: a snappy block of protobuf.

use std::collections::HashMap;

use anyhow::Context;
use nilometer_contract::{SampleBatch, Timestamp};
use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    series: Vec<Series>,
}

#[derive(Clone, PartialEq, Message)]
struct Series {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    at_millis: i64,
}

/// Milliseconds, which are finer than any step of the fleet.
pub(crate) fn millis(at: Timestamp) -> i64 {
    at.0.div_euclid(1_000)
}

/// The body of a request with all samples of a batch; as in the batch, a series is named once.
pub(crate) fn body(batch: &SampleBatch) -> anyhow::Result<Vec<u8>> {
    let bytes = write_request(batch).encode_to_vec();
    snap::raw::Encoder::new().compress_vec(&bytes).context("compress a request")
}

fn write_request(batch: &SampleBatch) -> WriteRequest {
    let mut places = HashMap::new();
    let mut series: Vec<Series> = Vec::new();
    for row in 0..batch.len() {
        let (meter, resource) = (batch.meter[row], batch.resource[row]);
        let place = *places.entry((meter, resource)).or_insert_with(|| {
            series.push(Series {
                labels: labels(batch, meter.into(), resource as usize),
                samples: Vec::new(),
            });
            series.len() - 1
        });
        let at_millis = millis(Timestamp(batch.at[row]));
        series[place].samples.push(Sample { value: batch.value[row], at_millis });
    }
    WriteRequest { series }
}

/// In order of their names, as the protocol asks; an empty label is none.
fn labels(batch: &SampleBatch, meter: usize, resource: usize) -> Vec<Label> {
    let subjects = &batch.subjects;
    let labels = [
        ("__name__", batch.meters.name.value(meter)),
        ("kind", subjects.kind.value(resource)),
        ("node", subjects.node.value(resource)),
        ("project", subjects.project.value(resource)),
        ("resource", subjects.id.value(resource)),
        ("source", &batch.source),
    ];
    let some = labels.into_iter().filter(|(_, value)| !value.is_empty());
    some.map(|(name, value)| Label { name: name.to_owned(), value: value.to_owned() }).collect()
}

#[cfg(test)]
mod tests {
    use nilometer_contract::{BatchBuilder, ResourceKind, Subject};

    use super::*;

    #[test]
    fn a_series_is_named_once_and_keeps_its_order() {
        let mut builder = BatchBuilder::new("test");
        let vm = builder.subject(Subject {
            id: "vm-1".to_owned(),
            kind: ResourceKind::VM,
            project: "analytics".to_owned(),
            node: String::new(),
            labels: nilometer_contract::Labels::none(),
        });
        for (step, value) in [(1, 0.5), (2, 1.5)] {
            let at = Timestamp(step * 10_000_999);
            builder.push_named(vm, "cpu.time", at, value);
            builder.push_named(vm, "memory.usage", at, value * 4.0);
        }
        let bytes = body(&builder.build()).unwrap();
        let bytes = snap::raw::Decoder::new().decompress_vec(&bytes).unwrap();
        let request = WriteRequest::decode(&*bytes).unwrap();
        let text = |series: &Series| {
            let labels =
                series.labels.iter().map(|label| format!("{}={}", label.name, label.value));
            let samples = series.samples.iter().map(|s| format!("{}@{}", s.value, s.at_millis));
            labels.chain(samples).collect::<Vec<_>>().join(" ")
        };
        let found: Vec<String> = request.series.iter().map(text).collect();
        assert_eq!(
            found,
            [
                "__name__=cpu.time kind=vm project=analytics resource=vm-1 source=test \
                 0.5@10000 1.5@20001",
                "__name__=memory.usage kind=vm project=analytics resource=vm-1 source=test \
                 2@10000 6@20001",
            ]
        );
    }
}
