package coordinator

import (
	"errors"
	"fmt"
	"time"

	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/telemetry/tensorboard"
)

// scalars is a View that leaves a run's numbers as TensorBoard files in the run folder's tensorboard/.
type scalars struct {
	nothing
	dir string
	now func() time.Time
	w   *tensorboard.Writer // nil until the first number
	err error
}

func (s *scalars) add(step uint64, values ...tensorboard.Scalar) {
	if s.err != nil {
		return
	}
	if s.w == nil {
		if s.w, s.err = tensorboard.Create(s.dir, s.now()); s.err != nil {
			return
		}
	}
	s.err = s.w.Add(s.now(), int64(step), values...)
}

// Step writes a step's numbers.
func (s *scalars) Step(l *membership.StepLine) {
	s.add(l.GetStep(),
		tensorboard.Scalar{Tag: "train/loss", Value: l.GetLoss()},
		tensorboard.Scalar{Tag: "train/learning_rate", Value: l.GetLearningRate()},
		tensorboard.Scalar{Tag: "train/grad_norm", Value: l.GetGradNorm()},
		tensorboard.Scalar{Tag: "train/tokens_per_second", Value: l.GetTokensPerSecond()})
}

// Evaluation writes an evaluation's.
func (s *scalars) Evaluation(l *membership.EvaluationLine) {
	s.add(l.GetStep(),
		tensorboard.Scalar{Tag: "eval/loss", Value: l.GetLoss()},
		tensorboard.Scalar{Tag: "eval/perplexity", Value: l.GetPerplexity()})
}

// Close closes the file.
func (s *scalars) Close() error {
	err := s.err
	if s.w != nil {
		err = errors.Join(err, s.w.Close())
	}
	if err != nil {
		return fmt.Errorf("write TensorBoard files: %w", err)
	}
	return nil
}
