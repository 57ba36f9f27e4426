//! What filters say about one column: bounds to leave files out by.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

/// Inclusive bounds that the filters, all of which must hold, put on an instant or integer column.
pub fn bounds(filters: &[Expr], column: &str) -> (i64, i64) {
    let mut bounds = (i64::MIN, i64::MAX);
    filters.iter().for_each(|filter| narrow(filter, column, &mut bounds));
    bounds
}

/// The one text that the filters demand of a column, if they demand one.
pub fn equals(filters: &[Expr], column: &str) -> Option<String> {
    filters.iter().find_map(|filter| match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
            let text = if is_column(left, column) {
                right.as_ref()
            } else if is_column(right, column) {
                left.as_ref()
            } else {
                return None;
            };
            match text {
                Expr::Literal(value, _) => value.try_as_str().flatten().map(str::to_owned),
                _ => None,
            }
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            equals(&[left.as_ref().clone(), right.as_ref().clone()], column)
        }
        _ => None,
    })
}

fn narrow(filter: &Expr, column: &str, bounds: &mut (i64, i64)) {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            narrow(left, column, bounds);
            narrow(right, column, bounds);
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            if let (true, Some(value)) = (is_column(left, column), literal(right)) {
                apply(*op, value, bounds);
            } else if let (true, Some(value)) = (is_column(right, column), literal(left))
                && let Some(op) = op.swap()
            {
                apply(op, value, bounds);
            }
        }
        Expr::Between(between) if !between.negated && is_column(&between.expr, column) => {
            if let Some(low) = literal(&between.low) {
                apply(Operator::GtEq, low, bounds);
            }
            if let Some(high) = literal(&between.high) {
                apply(Operator::LtEq, high, bounds);
            }
        }
        _ => {}
    }
}

fn apply(op: Operator, value: i64, bounds: &mut (i64, i64)) {
    match op {
        Operator::Eq => *bounds = (bounds.0.max(value), bounds.1.min(value)),
        Operator::Gt | Operator::GtEq => bounds.0 = bounds.0.max(value),
        Operator::Lt | Operator::LtEq => bounds.1 = bounds.1.min(value),
        _ => {}
    }
}

/// Whether it is the column, or the column as instants of at least its own precision.
fn is_column(expr: &Expr, column: &str) -> bool {
    let fine = |kind: &DataType| {
        matches!(kind, DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, _))
    };
    match expr {
        Expr::Column(found) => found.name == column,
        Expr::Cast(cast) if fine(cast.field.data_type()) => is_column(&cast.expr, column),
        _ => false,
    }
}

/// Microseconds of an instant, or an integer.
fn literal(expr: &Expr) -> Option<i64> {
    let Expr::Literal(value, _) = expr else { return None };
    match value {
        ScalarValue::Int64(value) => *value,
        ScalarValue::TimestampMicrosecond(value, _) => *value,
        ScalarValue::TimestampNanosecond(Some(value), _) => Some(value.div_euclid(1_000)),
        ScalarValue::TimestampMillisecond(Some(value), _) => value.checked_mul(1_000),
        ScalarValue::TimestampSecond(Some(value), _) => value.checked_mul(1_000_000),
        other => match other.cast_to(&DataType::Int64) {
            Ok(ScalarValue::Int64(value)) if other.data_type().is_integer() => value,
            _ => None,
        },
    }
}
