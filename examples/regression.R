#!/usr/bin/env Rscript
# Fit a line through points around y = 2x + 1.

# conda execute
# env:
#  - r-base >=4

set.seed(1)
x <- seq(0, 10, by = 0.5)
y <- 2 * x + 1 + rnorm(length(x), sd = 0.2)
fit <- lm(y ~ x)
cat(sprintf("slope %.2f, intercept %.2f\n", coef(fit)[["x"]], coef(fit)[["(Intercept)"]]))
