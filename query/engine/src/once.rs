//! Questions about labels alone read each series once.
//!
//! `DISTINCT`, `GROUP BY` without a sum, and `count(DISTINCT …)` give the same answer however often
//! a row comes. Where they ask for nothing but labels of `samples`, one row a series is enough:
//! instants, values and epochs are not read, and labels are not made, for all the others.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr_common::physical_expr::is_volatile;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions};

use crate::label::LabelExec;

/// Lets grouping without aggregates read each series once.
#[derive(Debug)]
pub(crate) struct OncePerSeries;

impl PhysicalOptimizerRule for OncePerSeries {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let Some(input) = node.downcast_ref::<AggregateExec>().and_then(grouped) else {
                return Ok(Transformed::no(node));
            };
            Ok(Transformed::yes(over(node, input)?))
        })
        .data()
    }

    fn name(&self) -> &str {
        "once_per_series"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// What a grouping may read instead, if that is less.
fn grouped(aggregate: &AggregateExec) -> Option<Arc<dyn ExecutionPlan>> {
    let groups = aggregate.group_expr().expr().iter().map(|(expr, _)| expr);
    match aggregate.aggr_expr().is_empty() && are_stable(groups) {
        true => once(aggregate.input()),
        false => None,
    }
}

/// Whether equal rows give equal results.
fn are_stable<'e>(mut exprs: impl Iterator<Item = &'e Arc<dyn PhysicalExpr>>) -> bool {
    exprs.all(|expr| !is_volatile(expr))
}

/// The same rows, those of a series once; none where rows are more than their labels.
fn once(plan: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
    if let Some(labels) = plan.downcast_ref::<LabelExec>() {
        return labels.once_per_series().map(|labels| Arc::new(labels) as Arc<dyn ExecutionPlan>);
    }
    let passes = match plan.downcast_ref::<ProjectionExec>() {
        Some(projection) => are_stable(projection.expr().iter().map(|it| &it.expr)),
        None => plan.is::<RepartitionExec>() || plan.is::<CoalescePartitionsExec>(),
    };
    let child = plan.children().first().copied().filter(|_| passes)?;
    over(Arc::clone(plan), once(child)?).ok()
}

/// A plan over another input.
fn over(
    plan: Arc<dyn ExecutionPlan>,
    input: Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    plan.replace_children(vec![input], options)
}
