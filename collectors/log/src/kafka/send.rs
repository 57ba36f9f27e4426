//! Appending: all records of a call in order, and the place of the first.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode as Code},
    producer::{DeliveryFuture, FutureProducer, FutureRecord},
};

use super::errors::Context;
use crate::TopicPartition;

/// Sends all records in order and waits until all are stored; returns the offset of the first.
pub(super) async fn send(
    producer: &FutureProducer<Context>,
    to: &TopicPartition,
    payloads: &[Bytes],
) -> Result<u64, KafkaError> {
    let mut waiting: VecDeque<DeliveryFuture> = VecDeque::new();
    let mut first = None;
    for payload in payloads {
        let mut record =
            FutureRecord::<(), [u8]>::to(&to.topic).partition(to.partition as i32).payload(payload);
        loop {
            match producer.send_result(record) {
                Ok(delivery) => break waiting.push_back(delivery),
                Err((KafkaError::MessageProduction(Code::QueueFull), again)) => {
                    record = again;
                    match waiting.pop_front() {
                        Some(delivery) => first = first.or(Some(delivered(delivery).await?)),
                        // Full of others' records.
                        None => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                }
                Err((e, _)) => return Err(e),
            }
        }
    }
    for delivery in waiting {
        first = first.or(Some(delivered(delivery).await?));
    }
    // A broker that knows a batch already may not tell where it lies.
    let known = first.and_then(|offset| u64::try_from(offset).ok());
    known.ok_or(KafkaError::MessageProduction(Code::DuplicateSequenceNumber))
}

async fn delivered(delivery: DeliveryFuture) -> Result<i64, KafkaError> {
    match delivery.await {
        Ok(Ok(delivered)) => Ok(delivered.offset),
        Ok(Err((e, _))) => Err(e),
        Err(_) => Err(KafkaError::Canceled),
    }
}
