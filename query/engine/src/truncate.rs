//! `date_trunc` of a fixed width becomes `date_bin`, which is several times faster on instants.
//!
//! Equal in UTC only, where every hour and day has its full length; all our instants are.

use arrow::datatypes::{DataType, IntervalMonthDayNano};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::functions::datetime::date_bin;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{Expr, ExprSchemable, lit};

const SECOND_NANOS: i64 = 1_000_000_000;

/// The rewrite, for a session.
#[derive(Debug)]
pub(crate) struct BinFixedWidths;

impl FunctionRewrite for BinFixedWidths {
    fn name(&self) -> &str {
        "bin_fixed_widths"
    }

    fn rewrite(
        &self,
        expr: Expr,
        schema: &DFSchema,
        _: &ConfigOptions,
    ) -> Result<Transformed<Expr>> {
        let Expr::ScalarFunction(function) = &expr else { return Ok(Transformed::no(expr)) };
        let Some(width) = width(function) else { return Ok(Transformed::no(expr)) };
        let instant = &function.args[1];
        match instant.get_type(schema)? {
            DataType::Timestamp(_, Some(zone)) if ["UTC", "+00:00"].contains(&&*zone) => {
                let width = lit(ScalarValue::IntervalMonthDayNano(Some(width)));
                let bin = ScalarFunction::new_udf(date_bin(), vec![width, instant.clone()]);
                Ok(Transformed::yes(Expr::ScalarFunction(bin)))
            }
            _ => Ok(Transformed::no(expr)),
        }
    }
}

/// What the function truncates to, if it is `date_trunc` to a width that counts from the epoch.
fn width(function: &ScalarFunction) -> Option<IntervalMonthDayNano> {
    let [Expr::Literal(unit, _), _] = function.args.as_slice() else { return None };
    if function.name() != "date_trunc" {
        return None;
    }
    let (days, nanos) = match unit.try_as_str()??.to_ascii_lowercase().as_str() {
        "second" => (0, SECOND_NANOS),
        "minute" => (0, 60 * SECOND_NANOS),
        "hour" => (0, 3_600 * SECOND_NANOS),
        "day" => (1, 0),
        _ => return None,
    };
    Some(IntervalMonthDayNano::new(0, days, nanos))
}
