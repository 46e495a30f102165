// Package plan says before a job starts what it will need: bytes in each worker by kind, bytes on the wire, time, and whether it
// fits this machine. It also settles what a job leaves to it: the stage, and whether activations are kept or computed
// again. Neither changes a bit of the result.
//
// Call Make. It computes nothing but numbers from the job, the model's description and the machine; it takes no memory and
// opens no model.
package plan

import (
	"errors"
	"fmt"
	"slices"

	"github.com/zerofleet/zerofleet/job"
	"github.com/zerofleet/zerofleet/model/spec"
	"github.com/zerofleet/zerofleet/shard"
)

// ErrDoesNotFit is wrapped by the error of a plan that does not fit: the job is refused before anything starts.
var ErrDoesNotFit = errors.New("the job does not fit")

// Plan is what a job needs with World workers on one machine.
type Plan struct {
	Job       string `json:"job"`
	Params    int64  `json:"params"` // of the model, a tied matrix counted once
	World     int    `json:"world"`
	Precision string `json:"precision"`

	Stage     int  `json:"stage"`
	Recompute bool `json:"recompute"` // gradient checkpointing
	// StageChosen and RecomputeChosen say that the job left them to the plan.
	StageChosen     bool `json:"stage_chosen"`
	RecomputeChosen bool `json:"recompute_chosen"`

	Worker   Bytes    `json:"worker"` // of the fullest worker
	Wire     Wire     `json:"wire"`
	Estimate Estimate `json:"estimate"`
	Machine  Machine  `json:"machine"`

	NeedBytes int64 `json:"need_bytes"` // of all workers and the coordinator
	Fits      bool  `json:"fits"`
	// Why says in words what fits or does not, with the numbers.
	Why string `json:"why"`
	// Others are the same job at every stage, with the recomputation of this plan.
	Others []Option `json:"others"`

	shape shape
}

// Option is one way to run the job.
type Option struct {
	Stage       int   `json:"stage"`
	Recompute   bool  `json:"recompute"`
	WorkerBytes int64 `json:"worker_bytes"`
	WireBytes   int64 `json:"wire_bytes"` // a step, rank 0
	Fits        bool  `json:"fits"`
}

// coordinatorBytes is assumed for the coordinator with the embedded etcd.
const coordinatorBytes = 128 << 20

// mostBytes is more than any machine has, and keeps the sums in 64 bits.
const mostBytes = 1 << 58

// Make plans j with workers.max workers. The error is for a job that cannot be planned at all; one that does not fit is a
// Plan whose Err says so.
//
// Where the stage is auto it is the smallest that fits; where gradient checkpointing is auto it is off if any stage that
// the job allows fits without. When nothing fits, the plan is the one that comes closest.
func Make(j *job.Job, cfg spec.Config, m Machine) (*Plan, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	stages := []shard.Stage{shard.Replicated, shard.OptimizerState, shard.Gradients, shard.Parameters}
	if n, said := j.Sharding.Stage.Number(); said {
		stages = []shard.Stage{shard.Stage(n)}
	}
	recomputes := []bool{false, true}
	if on, said := j.Train.GradientCheckpointing.Bool(); said {
		recomputes = []bool{on}
	}
	var best *Plan
	for _, recompute := range recomputes {
		for _, stage := range stages {
			p, err := one(j, cfg, m, stage, recompute)
			if err != nil {
				return nil, err
			}
			if p.Fits {
				return p.withOthers(j, cfg, m)
			}
			if best == nil || p.Worker.Total() < best.Worker.Total() {
				best = p
			}
		}
	}
	return best.withOthers(j, cfg, m)
}

// one plans a job at one stage.
func one(j *job.Job, cfg spec.Config, m Machine, stage shard.Stage, recompute bool) (*Plan, error) {
	s := newShape(j, cfg, j.Workers.Max, stage, recompute)
	if most := s.upperBound(); most > mostBytes {
		return nil, fmt.Errorf("plan: a worker would take about %.1g bytes: %w", most, ErrDoesNotFit)
	}
	bytes, err := s.bytes()
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	wire, err := s.wire()
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	_, stageSaid := j.Sharding.Stage.Number()
	_, recomputeSaid := j.Train.GradientCheckpointing.Bool()
	p := &Plan{
		Job: j.Name, Params: cfg.Params(), World: s.world, Precision: j.Train.Precision,
		Stage: int(stage), Recompute: recompute, StageChosen: !stageSaid, RecomputeChosen: !recomputeSaid,
		Worker: bytes, Wire: wire, Machine: m, shape: s,
		NeedBytes: int64(s.world)*bytes.Total() + coordinatorBytes,
	}
	p.Estimate = s.estimate(wire, m, j.Workers.Threads)
	p.judge(int64(j.Workers.DeviceMemoryBytes), j.Workers.Device == "cuda")
	return p, nil
}

// judge compares what is needed with what there is. What GPUs have is not known here, but for the job's budget: their
// workers refuse what does not fit, before the first step.
func (p *Plan) judge(budget int64, gpu bool) {
	worker := p.Worker.Total()
	switch {
	case budget > 0 && worker > budget:
		p.Why = fmt.Sprintf("a worker takes %s, and workers.device_memory_bytes is %s", Size(worker), Size(budget))
	case gpu && budget > 0:
		p.Fits = true
		p.Why = fmt.Sprintf("%s of %s, and a GPU's workers.device_memory_bytes is %s", count(p.World, "worker"), Size(worker), Size(budget))
	case gpu:
		p.Fits = true
		p.Why = fmt.Sprintf("%s of %s; how much memory their GPUs have is not known here", count(p.World, "worker"), Size(worker))
	case p.Machine.MemoryBytes > 0 && p.NeedBytes > p.Machine.MemoryBytes:
		p.Why = fmt.Sprintf("%s of %s and a coordinator of %s are %s, and this machine has %s (%s)", count(p.World, "worker"), Size(worker),
			Size(coordinatorBytes), Size(p.NeedBytes), Size(p.Machine.MemoryBytes), p.Machine.MemorySource)
	case p.Machine.MemoryBytes > 0:
		p.Fits = true
		p.Why = fmt.Sprintf("%s of %s and a coordinator of %s are %s of the %s that this machine has (%s)", count(p.World, "worker"), Size(worker),
			Size(coordinatorBytes), Size(p.NeedBytes), Size(p.Machine.MemoryBytes), p.Machine.MemorySource)
	default:
		p.Fits = true
		p.Why = fmt.Sprintf("%s of %s; how much memory this machine has is not known", count(p.World, "worker"), Size(worker))
	}
}

// withOthers adds what the job would take at the other stages.
func (p *Plan) withOthers(j *job.Job, cfg spec.Config, m Machine) (*Plan, error) {
	add := func(stage shard.Stage, recompute bool) error {
		o, err := one(j, cfg, m, stage, recompute)
		if err != nil {
			return err
		}
		p.Others = append(p.Others, Option{int(stage), recompute, o.Worker.Total(), o.Wire.Total(), o.Fits})
		return nil
	}
	for stage := shard.Replicated; stage <= shard.Parameters; stage++ {
		if err := add(stage, p.Recompute); err != nil {
			return nil, err
		}
	}
	if !p.Recompute {
		if err := add(shard.Stage(p.Stage), true); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Err is nil for a plan that fits, else what is too large, by how much, and what would fit.
func (p *Plan) Err() error {
	if p.Fits {
		return nil
	}
	advice := "lower train.micro_batch_size or data.sequence_len, or train a smaller model"
	if p.Worker.Replica > 0 {
		advice = fmt.Sprintf("set recovery.replicas: 0 (%s less a worker), %s", Size(p.Worker.Replica), advice)
	}
	if i := slices.IndexFunc(p.Others, func(o Option) bool { return o.Fits }); i >= 0 {
		o := p.Others[i]
		advice = fmt.Sprintf("sharding.stage: %d", o.Stage)
		if o.Recompute != p.Recompute {
			advice = fmt.Sprintf("train.gradient_checkpointing: %v", o.Recompute)
		}
		advice += fmt.Sprintf(" takes %s a worker and fits", Size(o.WorkerBytes))
	}
	return fmt.Errorf("%w: %s; %s", ErrDoesNotFit, p.Why, advice)
}

// upperBound is above all that a worker can take, for refusing sizes that would not even add up.
func (s shape) upperBound() float64 {
	c := s.cfg
	qkv, att := s.heads()
	perRow := float64(qkv+att) + 8*float64(c.Width) + 4*float64(c.FeedForward) + 4*float64(c.Heads)
	params := float64(c.Params()) + float64(len(s.units))*float64(s.world)*shard.BlockElems
	return 64*params + 16*float64(s.rows()+rowGranule)*perRow*float64(c.Layers+2) + 16*float64(chunkLogits+rowGranule*c.Vocab)
}
