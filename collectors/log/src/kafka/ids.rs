//! Ids of topics (KIP-516), by which a topic that was deleted and created again is told from the
//! one before it.
//!
//! The one module with `unsafe`: librdkafka tells topic ids only in the answer to its
//! DescribeTopics, which the safe wrapper has not. The alternatives are weaker: a marker record
//! or a header of ours binds records written by whoever has not noticed yet, and leader epochs
//! begin at zero in every topic. What is called here takes no callbacks and no memory of ours
//! outlives a call: each object is made, used and destroyed below.

#![expect(unsafe_code, reason = "the safe wrapper of librdkafka has no DescribeTopics")]

use std::{ffi::CString, ptr, time::Duration};

use rdkafka::{
    bindings::{self as sys, rd_kafka_AdminOptions_s, rd_kafka_admin_op_t, rd_kafka_event_t},
    consumer::{BaseConsumer, Consumer},
    error::RDKafkaErrorCode as Code,
    types::RDKafkaRespErr,
};

use super::errors::Context;
use crate::Incarnation;

/// Asks the cluster for the id of a topic; blocks up to `timeout`.
///
/// Brokers before version 2.8 have none: then all topics have the incarnation zero.
pub(super) fn topic_id(
    client: &BaseConsumer<Context>,
    topic: &str,
    timeout: Duration,
) -> Result<Incarnation, Code> {
    let Ok(name) = CString::new(topic) else { return Err(Code::InvalidTopic) };
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX).max(1);
    let asked = Question::ask(client, &name, timeout_ms)?;
    // librdkafka answers by its own time-out; some more is left for it to do so.
    asked.answer(timeout_ms.saturating_add(1_000))
}

/// A question under way, with all that librdkafka made for it.
struct Question {
    topics: *mut sys::rd_kafka_TopicCollection_t,
    options: *mut rd_kafka_AdminOptions_s,
    queue: *mut sys::rd_kafka_queue_t,
}

impl Question {
    fn ask(
        client: &BaseConsumer<Context>,
        name: &CString,
        timeout_ms: i32,
    ) -> Result<Question, Code> {
        let handle = client.client().native_ptr();
        let mut names = [name.as_ptr()];
        let mut reason = [0; 256];
        // SAFETY: the handle is that of a client borrowed for the call; the names are copied by
        // the call; the three objects are ours, and destroyed once, by `drop`.
        unsafe {
            let question = Question {
                topics: sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1),
                options: sys::rd_kafka_AdminOptions_new(
                    handle,
                    rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
                ),
                queue: sys::rd_kafka_queue_new(handle),
            };
            let refused = sys::rd_kafka_AdminOptions_set_request_timeout(
                question.options,
                timeout_ms,
                reason.as_mut_ptr(),
                reason.len(),
            );
            check(refused)?;
            sys::rd_kafka_DescribeTopics(handle, question.topics, question.options, question.queue);
            Ok(question)
        }
    }

    fn answer(&self, timeout_ms: i32) -> Result<Incarnation, Code> {
        // SAFETY: the queue is ours; what it gives out is ours until the event is destroyed.
        unsafe {
            let event = sys::rd_kafka_queue_poll(self.queue, timeout_ms);
            if event.is_null() {
                return Err(Code::OperationTimedOut);
            }
            let id = id_of(event);
            sys::rd_kafka_event_destroy(event);
            id
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        // SAFETY: each was made by `ask`, is destroyed here only, and is not used afterwards.
        unsafe {
            sys::rd_kafka_queue_destroy(self.queue);
            sys::rd_kafka_AdminOptions_destroy(self.options);
            sys::rd_kafka_TopicCollection_destroy(self.topics);
        }
    }
}

/// The id of the one topic that an answer tells of.
///
/// # Safety
///
/// The event must be one that was polled and not destroyed yet.
unsafe fn id_of(event: *mut rd_kafka_event_t) -> Result<Incarnation, Code> {
    // SAFETY: as the caller says; the result and what it lists live as long as the event.
    unsafe {
        check(sys::rd_kafka_event_error(event))?;
        let result = sys::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err(Code::Fail);
        }
        let mut count = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, ptr::from_mut(&mut count));
        if topics.is_null() || count != 1 {
            return Err(Code::UnknownTopicOrPartition);
        }
        let topic = *topics;
        let error = sys::rd_kafka_TopicDescription_error(topic);
        if !error.is_null() {
            check(sys::rd_kafka_error_code(error))?;
        }
        let id = sys::rd_kafka_TopicDescription_topic_id(topic);
        if id.is_null() {
            return Ok(Incarnation::default());
        }
        let high = sys::rd_kafka_Uuid_most_significant_bits(id);
        let low = sys::rd_kafka_Uuid_least_significant_bits(id);
        Ok(Incarnation::of_uuid(high as u64, low as u64))
    }
}

fn check(code: RDKafkaRespErr) -> Result<(), Code> {
    match code {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        code => Err(code.into()),
    }
}
