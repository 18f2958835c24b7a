//! Quantization within a budget of accuracy: the nodes that cost the most stay in float.

use super::{Inputs, Quantized, Quantizer};
use crate::{Error, Model, Session};

impl Quantizer {
    /// As [`run`](Self::run), keeping nodes in float, those that add the most noise first, until a metric of the
    /// model, the larger the better, is at most `max_drop` below the float model's.
    ///
    /// # Errors
    /// As [`run`](Self::run), whatever the metric says, and [`Error::Budget`] when the metric is missed with every
    /// product in float, unless the model is wanted [anyway](Self::anyway).
    pub fn run_within<I, F>(
        &self,
        model: &Model,
        samples: I,
        max_drop: f64,
        metric: F,
    ) -> Result<Quantized, Error>
    where
        I: IntoIterator<Item = Result<Inputs, Error>>,
        F: Fn(&Session) -> Result<f64, Error>,
    {
        let float = self.observe(model, samples)?;
        let target = metric(&self.session(model, float.graph.clone())?)? - max_drop;
        let first = float.quantize(self, &self.options)?;
        let worth = |q: &Quantized| metric(&self.session(model, q.model.graph().clone())?);
        // A metric that is not a number is below every target.
        let reaches = |m: f64| m >= target;
        let mut reached = worth(&first)?;
        if reaches(reached) {
            return Ok(first);
        }
        let mut costly: Vec<_> = first
            .report
            .nodes
            .iter()
            .filter(|n| n.is_quantized())
            .map(|n| (n.added.unwrap_or(0.0), n.node))
            .collect();
        costly.sort_by(|a, b| b.0.total_cmp(&a.0));
        let attempt = |count: usize| {
            let mut options = self.options.clone();
            options.exclude_nodes.extend(costly[..count].iter().map(|c| c.1));
            let q = float.quantize(self, &options)?;
            let m = worth(&q)?;
            Ok::<_, Error>((q, m))
        };
        // Twice as many each time, then between the last two.
        let (mut few, mut many) = (0, 1);
        let mut best = loop {
            let count = many.min(costly.len());
            let (q, m) = attempt(count)?;
            if reaches(m) {
                many = count;
                break q;
            }
            reached = m;
            if count == costly.len() {
                return if self.anyway { Ok(first) } else { Err(Error::Budget { reached, target }) };
            }
            (few, many) = (count, 2 * count);
        };
        while few + 1 < many {
            let middle = few.midpoint(many);
            let (q, m) = attempt(middle)?;
            if reaches(m) {
                (many, best) = (middle, q);
            } else {
                few = middle;
            }
        }
        Ok(best)
    }
}
