package plan

import "time"

// Estimate is how long a step takes, roughly: for planning a night, not for comparing machines.
type Estimate struct {
	StepFLOPs        float64       `json:"step_flops"` // floating-point operations of all leaves of a step
	StepTime         time.Duration `json:"step_time_ns"`
	Compute          time.Duration `json:"compute_ns"`
	Wire             time.Duration `json:"wire_ns"`
	Update           time.Duration `json:"update_ns"`
	TokensPerSecond  float64       `json:"tokens_per_second"`
	FLOPsPerSecond   float64       `json:"flops_per_second"` // of one worker: measured or assumed
	Assumption       string        `json:"assumption"`
	ThreadsPerWorker float64       `json:"threads_per_worker"` // cores that a worker really gets
}

// What is assumed where nothing was measured.
const (
	wireBytesPerSecond   = 1e9    // between processes of one host, sender and receiver on the same cores
	operationSeconds     = 0.5e-3 // for a collective to start, pass through both processes and be waited for
	updateBytesPerSecond = 4e9    // the optimizer reads and writes memory and hardly computes
)

// estimate adds up a step on rank 0, which has the most leaves. Nothing is taken to overlap: on a CPU the wire costs
// the cores that compute.
func (s shape) estimate(w Wire, m Machine, threads int) Estimate {
	perLeaf := s.leafFLOPs()
	e := Estimate{StepFLOPs: perLeaf * float64(s.leaves)}
	e.ThreadsPerWorker = float64(threads)
	if m.Cores > 0 {
		e.ThreadsPerWorker = min(e.ThreadsPerWorker, float64(m.Cores)/float64(s.world))
	}
	rate, why := m.threadRate(s.act == 2)
	e.FLOPsPerSecond, e.Assumption = rate*e.ThreadsPerWorker, why
	seconds := func(x float64) time.Duration { return time.Duration(min(x, 1e9) * float64(time.Second)) }
	e.Compute = seconds(perLeaf * float64(s.rounds()) / e.FLOPsPerSecond)
	e.Wire = seconds(float64(w.Total())/wireBytesPerSecond + float64(w.Operations)*operationSeconds)
	// Master, moments and gradient are read, master and moments written: 28 bytes a parameter that this rank updates.
	updated := float64(s.cfg.Params())
	if s.stage != 0 {
		updated /= float64(s.world)
	}
	if s.replicas { // the ward's shard too
		updated *= 2
	}
	e.Update = seconds(28 * updated / updateBytesPerSecond)
	e.StepTime = e.Compute + e.Wire + e.Update
	e.TokensPerSecond = float64(s.leaves) * float64(s.rows()) / e.StepTime.Seconds()
	return e
}

// leafFLOPs is the operations of one micro-batch, forward and backward. A product of an [M,K] by a [K,N] matrix is 2MKN; the
// backward does two for each of the forward's. Attention is causal, half of the T by T scores, and its backward computes
// the scores again: five products to the forward's two.
func (s shape) leafFLOPs() float64 {
	c, rows := s.cfg, float64(s.rows())
	qkv, att := s.heads()
	d := float64(c.Width)
	products := 2 * rows * d * (float64(qkv) + float64(att) + 3*float64(c.FeedForward))
	attention := 2 * 2 * rows * float64(s.t) / 2 * float64(att)
	block, blockBack := products+attention, 2*products+2.5*attention
	if s.recompute {
		blockBack += block
	}
	head := 3 * 2 * rows * d * float64(c.Vocab)
	return float64(c.Layers)*(block+blockBack) + head
}
