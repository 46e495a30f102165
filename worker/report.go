package worker

import (
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/data"
	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/train"
)

// reporter tells the coordinator what the training does. Every rank tells of every step: the coordinator keeps each once.
type reporter struct {
	w       *worker
	members []membership.Member // of the generation, by rank
	t       *train.Trainer
	group   collective.Group
	data    *data.Dataset
	rank    int
	began   time.Time
	sent    collective.Stats // at the last step
}

var phases = map[string]membership.Phase{
	"training": membership.Training, "evaluating": membership.Evaluating, "checkpointing": membership.Checkpointing,
}

func (r *reporter) phase(name string) {
	r.w.session.ReportState(phases[name], "", uint64(r.t.Step()), r.memory())
}

func (r *reporter) memory() map[string]int64 {
	bytes := map[string]int64{}
	for use, n := range r.t.Usage() {
		bytes[string(use)] = n
	}
	return bytes
}

func (r *reporter) instruction() train.Instruction {
	i := r.w.session.Instruction()
	return train.Instruction{Seq: i.Sequence, Kind: train.InstructionKind(i.Kind)}
}

func (r *reporter) stopReason() train.StopReason {
	switch limit := r.w.job.Train.MaxSeconds; {
	case r.w.orphaned():
		return train.Orphaned
	case limit > 0 && time.Since(r.began) > seconds(limit):
		return train.TimeUp
	}
	return 0
}

func (r *reporter) committed(s train.StepReport) {
	var held int64
	for _, n := range r.t.Usage() {
		held += n
	}
	r.w.session.ReportStep(&membership.StepLine{
		Step: s.Step, OptimizerStep: uint64(r.t.OptimizerStep()), Loss: s.Loss, LearningRate: s.LearningRate, GradNorm: s.GradNorm,
		Tokens: uint64(s.Tokens), LossTokens: s.LossTokens, TokensPerSecond: float64(s.Tokens) / s.Elapsed.Seconds(),
		WorldSize: uint32(r.group.Size()), Generation: r.group.Generation(), TierBytes: map[string]int64{"host": held},
		Skipped: !s.Updated, TotalSteps: uint64(r.data.Steps()), UnixNanos: time.Now().UnixNano(), SentBytes: r.sentBytes(),
		Worker: r.w.session.ID(), Seconds: secondsOf(s.Timeline), WaitedFor: r.waitedFor(s.Late),
	})
	r.w.session.ReportState(membership.Training, "", s.Step, nil)
}

// secondsOf is where a step's time went.
func secondsOf(t train.Timeline) map[string]float64 {
	return map[string]float64{"data": t.Data.Seconds(), "compute": t.Compute.Seconds(), "exposed_communication": t.Exposed.Seconds(),
		"update": t.Update.Seconds(), "checkpoint": t.Checkpoint.Seconds()}
}

// waitedFor is how long a step waited for workers that arrived last.
func (r *reporter) waitedFor(late []time.Duration) map[string]float64 {
	out := map[string]float64{}
	for rank, d := range late {
		if d > 0 {
			out[r.members[rank].ID] = d.Seconds()
		}
	}
	return out
}

// sentBytes is what this rank has sent since it was last asked, by operation.
func (r *reporter) sentBytes() map[string]uint64 {
	now, bytes := r.group.Stats(), map[string]uint64{}
	for k, n := range now.SentBytes {
		if n -= r.sent.SentBytes[k]; n > 0 {
			bytes[collective.Kind(k).String()] = n
		}
	}
	r.sent = now
	return bytes
}

// troubled tells of a checkpoint that has failed, once, and logs each of its tries.
func (r *reporter) troubled(step int64, err error, first bool) {
	r.w.o.Log.Warn("a checkpoint has failed and is tried again", "step", step, "error", err)
	if first {
		r.w.session.ReportEvent("checkpoint_failed", fmt.Sprintf("checkpoint of step %d failed and is tried again; training goes on", step), err.Error(),
			map[string]string{"step": fmt.Sprint(step), "rank": fmt.Sprint(r.rank)})
	}
}

func (r *reporter) evaluated(step int64, e train.Evaluation) {
	if r.rank == 0 {
		r.w.session.ReportEvaluation(&membership.EvaluationLine{Step: uint64(step), Loss: e.Loss, Perplexity: math.Exp(e.Loss), LossTokens: e.Tokens})
	}
}

func marshalReport(m proto.Message) ([]byte, error) { return protojson.Marshal(m) }
