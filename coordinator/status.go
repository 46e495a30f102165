package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/zerofleet/zerofleet/membership"
	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// askTimeout bounds how long a living coordinator may take to say what its run is doing.
const askTimeout = 5 * time.Second

// States of a run without a coordinator, beside those of store.Outcome.
const (
	stateOrphaned = "orphaned" // its workers go on
	stateEnded    = "ended"    // no process is left, and nobody wrote down how it ended
)

// ReadStatus says what the run in a folder is doing, or how it ended. While a coordinator runs it, that is asked;
// otherwise the folder tells.
func ReadStatus(ctx context.Context, dir string) (s *Status, err error) {
	state, err := stateOf(dir)
	if err != nil {
		return nil, badInput{err}
	}
	if state != folderRun {
		return nil, bad("%s is no run folder", dir)
	}
	folder, err := openRunFolder(dir)
	if err != nil {
		return askStatus(ctx, dir)
	}
	defer func() { err = errors.Join(err, folder.close()) }()
	// From a copy: an etcd writes when it starts, and the disk may be full, or not this user's to write.
	etcd, err := os.MkdirTemp("", "zerofleet-status-")
	if err != nil {
		return nil, fmt.Errorf("read status: %w", err)
	}
	defer os.RemoveAll(etcd)
	if err := os.CopyFS(etcd, os.DirFS(folder.path("etcd"))); err != nil {
		return nil, fmt.Errorf("read status: %w", err)
	}
	r, err := openAt(ctx, folder, etcd)
	defer func() { err = errors.Join(err, r.close()) }()
	if err != nil {
		return nil, err
	}
	return r.status()
}

func askStatus(ctx context.Context, dir string) (s *Status, err error) {
	err = operate(ctx, dir, func(ctx context.Context, c zerofleetv1.OperatorClient) (err error) {
		s, err = c.Status(ctx, &zerofleetv1.StatusRequest{})
		return err
	})
	return s, err
}

// operate calls the living coordinator of a run.
func operate(ctx context.Context, dir string, do func(context.Context, zerofleetv1.OperatorClient) error) (err error) {
	folder := runFolder{dir: dir}
	at, err := membership.ControlFile(folder.path("control.json"))()
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: its coordinator is starting or ending: try again", dir)
	}
	if err != nil {
		return err
	}
	conn, err := at.Connect(nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := do(ctx, zerofleetv1.NewOperatorClient(conn)); err != nil {
		return fmt.Errorf("ask the coordinator of %s: %w", dir, err)
	}
	return nil
}

// AskCheckpoint has a run, whose coordinator must be alive, write a checkpoint after the running step.
func AskCheckpoint(ctx context.Context, dir string) error {
	return askRun(ctx, dir, &zerofleetv1.AskRequest{Kind: zerofleetv1.InstructionKind(membership.Checkpoint)})
}

// AskStop has a living run stop after the running step, with a checkpoint.
func AskStop(ctx context.Context, dir string) error {
	return askRun(ctx, dir, &zerofleetv1.AskRequest{Kind: zerofleetv1.InstructionKind(membership.Stop)})
}

// AskResize says how many workers a living run may use from now on.
func AskResize(ctx context.Context, dir string, workers int) error {
	return askRun(ctx, dir, &zerofleetv1.AskRequest{Max: uint32(workers)})
}

// AskSuspend has a living run checkpoint after the running step, free its state, and wait.
func AskSuspend(ctx context.Context, dir string) error {
	return askRun(ctx, dir, &zerofleetv1.AskRequest{Suspend: true})
}

// AskResume has a suspended run go on.
func AskResume(ctx context.Context, dir string) error {
	return askRun(ctx, dir, &zerofleetv1.AskRequest{Resume: true})
}

func askRun(ctx context.Context, dir string, r *zerofleetv1.AskRequest) error {
	state, err := stateOf(dir)
	if err != nil {
		return badInput{err}
	}
	if state != folderRun {
		return bad("%s is no run folder", dir)
	}
	err = operate(ctx, dir, func(ctx context.Context, c zerofleetv1.OperatorClient) error {
		_, err := c.Ask(ctx, r)
		return err
	})
	switch status.Code(err) {
	case codes.InvalidArgument:
		return bad("%s: %s", dir, status.Convert(err).Message())
	case codes.Unavailable:
		return bad("%s: no coordinator runs it", dir)
	}
	return err
}

// status is what an open run folder without a coordinator tells.
func (r *run) status() (s *Status, err error) {
	view := newFeed(nothing{})
	rec, err := openRecord(r.folder, 0, r.view.Run.After, view, slog.New(slog.DiscardHandler))
	defer func() { err = errors.Join(err, view.close()) }()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rec.close()) }()
	s = (&server{record: rec, board: newBoard(r.view.States)}).status(r.view)
	s.CoordinatorPid = 0
	if r.view.Outcome == nil {
		n, err := living(r.view)
		if err != nil {
			return nil, err
		}
		s.State, s.Message = stateOrphaned, "to take it up again: "+launchLine(r.view.Run)
		if n == 0 {
			s.State, s.Message = stateEnded, "to go on from its newest checkpoint: "+resumeLine(r.view.Run)
		}
	}
	return s, nil
}

// nothing is a View of nothing.
type nothing struct{}

func (nothing) Status(*Status)                        {}
func (nothing) Step(*membership.StepLine)             {}
func (nothing) Evaluation(*membership.EvaluationLine) {}
func (nothing) Event(Event)                           {}
func (nothing) Close() error                          { return nil }

type statusJSON struct {
	Job            string  `json:"job"`
	RunDir         string  `json:"run_dir"`
	State          string  `json:"state"`
	Message        string  `json:"message,omitempty"`
	Generation     uint64  `json:"generation"`
	Step           uint64  `json:"step"`
	TotalSteps     uint64  `json:"total_steps"`
	Loss           *number `json:"loss"`
	CheckpointStep uint64  `json:"checkpoint_step"`
	// CheckpointFailing is why the newest one that was tried is not there yet.
	CheckpointFailing string             `json:"checkpoint_failing,omitempty"`
	CoordinatorPID    int64              `json:"coordinator_pid,omitempty"`
	Newest            *stepJSON          `json:"newest,omitempty"`
	Evaluation        *evaluationJSON    `json:"evaluation,omitempty"`
	Losses            lossesJSON         `json:"losses"`
	Workers           []workerStatusJSON `json:"workers"`
}

type lossesJSON struct {
	Workers       uint32  `json:"workers"`
	Generations   uint32  `json:"generations"`
	Seconds       float64 `json:"seconds"`
	MovedBytes    uint64  `json:"moved_bytes"`
	RestoredBytes uint64  `json:"restored_bytes"`
	Drained       uint32  `json:"drained"`
	StepsRedone   uint64  `json:"steps_redone"`
	Goodput       float64 `json:"goodput"` // the share of the time that went into steps that count
	LostSeconds   float64 `json:"lost_seconds"`
	WorkerHours   float64 `json:"worker_hours"`
	Spent         float64 `json:"spent,omitempty"`
	Saved         float64 `json:"saved,omitempty"`
	// Checkpoints that failed at first, or for good; replicas that were not like their shard.
	CheckpointFailures uint32 `json:"checkpoint_failures"`
	DamagedReplicas    uint32 `json:"damaged_replicas"`
	// ExactUntil is the last step that any world size would have computed so; absent: all are.
	ExactUntil *uint64 `json:"exact_until,omitempty"`
}

type workerStatusJSON struct {
	ID          string           `json:"id"`
	Rank        int32            `json:"rank"` // -1: not in the newest generation
	Generation  uint64           `json:"generation"`
	Incarnation uint64           `json:"incarnation"`
	PID         int64            `json:"pid"`
	State       string           `json:"state"`
	Message     string           `json:"message,omitempty"`
	Step        uint64           `json:"step"`
	Host        string           `json:"host"`
	Device      string           `json:"device"`
	Addr        string           `json:"addr"`
	MemoryBytes map[string]int64 `json:"memory_bytes,omitempty"`
}

// PhaseName is a worker's state in a word.
func PhaseName(p membership.Phase) string {
	if p == zerofleetv1.Phase_PHASE_UNSPECIFIED {
		return "starting"
	}
	return strings.ToLower(strings.TrimPrefix(p.String(), "PHASE_"))
}

// WriteStatusJSON writes s as one JSON document.
func WriteStatusJSON(w io.Writer, s *Status) error {
	out := statusJSON{
		Job: s.GetJob(), RunDir: s.GetRunDir(), State: s.GetState(), Message: s.GetMessage(), Generation: s.GetGeneration(),
		CheckpointStep: s.GetCheckpointStep(), CheckpointFailing: s.GetCheckpointFailing(), CoordinatorPID: s.GetCoordinatorPid(), Workers: []workerStatusJSON{},
	}
	lost := s.GetLosses()
	out.Losses = lossesJSON{Workers: lost.GetWorkers(), Generations: lost.GetGenerations(), Seconds: lost.GetSeconds(), MovedBytes: lost.GetMovedBytes(),
		RestoredBytes: lost.GetRestoredBytes(), Drained: lost.GetDrained(), StepsRedone: lost.GetStepsRedone(), Goodput: lost.GetGoodput(),
		LostSeconds: lost.GetLostSeconds(), WorkerHours: lost.GetWorkerHours(), Spent: lost.GetSpent(), Saved: lost.GetSaved(),
		CheckpointFailures: lost.GetCheckpointFailures(), DamagedReplicas: lost.GetDamagedReplicas()}
	if lost != nil {
		out.Losses.ExactUntil = lost.ExactUntil
	}
	if l := s.GetNewest(); l != nil {
		line := stepLine(l)
		out.Newest, out.Step, out.TotalSteps, out.Loss = &line, line.Step, line.TotalSteps, &line.Loss
	}
	if e := s.GetEvaluation(); e != nil {
		line := evaluationLine(e)
		out.Evaluation = &line
	}
	for _, p := range s.GetWorkers() {
		out.Workers = append(out.Workers, workerStatusJSON{
			ID: p.GetId(), Rank: p.GetRank(), Generation: p.GetGeneration(), Incarnation: p.GetIncarnation(), PID: p.GetPid(),
			State: PhaseName(p.GetPhase()), Message: p.GetMessage(), Step: p.GetStep(), Host: p.GetHost(), Device: p.GetDevice(), Addr: p.GetAddr(),
			MemoryBytes: p.GetMemoryBytes(),
		})
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(out); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}

// WriteStatus writes s for a person.
func WriteStatus(w io.Writer, s *Status) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s: %s", s.GetJob(), s.GetState())
	if s.GetMessage() != "" {
		fmt.Fprintf(t, " (%s)", s.GetMessage())
	}
	fmt.Fprintf(t, "\nrun\t%s\n", shown(s.GetRunDir()))
	if l := s.GetNewest(); l != nil {
		fmt.Fprintf(t, "step\t%d of %d, loss %.4f, %.0f tokens/s\n", l.GetStep(), l.GetTotalSteps(), l.GetLoss(), l.GetTokensPerSecond())
	}
	if e := s.GetEvaluation(); e != nil {
		fmt.Fprintf(t, "evaluation\tafter step %d: loss %.4f, perplexity %.2f\n", e.GetStep(), e.GetLoss(), e.GetPerplexity())
	}
	if s.GetCheckpointStep() > 0 {
		fmt.Fprintf(t, "checkpoint\tof step %d\n", s.GetCheckpointStep())
	}
	if why := s.GetCheckpointFailing(); why != "" {
		fmt.Fprintf(t, "checkpoint fails\t%s\n", why)
	}
	if n := s.GetLosses().GetDamagedReplicas(); n > 0 {
		fmt.Fprintf(t, "damaged memory\t%d replicas were not like their shard; the job went back to a checkpoint\n", n)
	}
	if l := s.GetLosses(); l != nil && l.ExactUntil != nil {
		fmt.Fprintf(t, "exact until\tstep %d: a worker of other bits was admitted after it\n", l.GetExactUntil())
	}
	fmt.Fprintf(t, "generation\t%d\n", s.GetGeneration())
	l := s.GetLosses()
	if l.GetWorkers() > 0 || l.GetDrained() > 0 {
		fmt.Fprintf(t, "losses\t%d workers died, %d left; %d steps redone; %.1f s until the others had taken over; %.1f MiB moved, %.1f MiB read from checkpoints\n",
			l.GetWorkers(), l.GetDrained(), l.GetStepsRedone(), l.GetSeconds(), float64(l.GetMovedBytes())/(1<<20), float64(l.GetRestoredBytes())/(1<<20))
	}
	if l.GetGoodput() > 0 {
		fmt.Fprintf(t, "goodput\t%.1f %% of %.2f worker-hours; %.1f s lost\n", 100*l.GetGoodput(), l.GetWorkerHours(), l.GetLostSeconds())
	}
	if l.GetSpent() > 0 {
		fmt.Fprintf(t, "spent\t%.2f", l.GetSpent())
		if l.GetSaved() != 0 {
			fmt.Fprintf(t, ", %.2f less than on machines that stay", l.GetSaved())
		}
		fmt.Fprintln(t)
	}
	if len(s.GetWorkers()) > 0 {
		fmt.Fprintf(t, "\nworker\trank\tpid\tstate\tstep\tmemory\n")
	}
	for _, p := range s.GetWorkers() {
		var held int64
		for _, n := range p.GetMemoryBytes() {
			held += n
		}
		rank := "-"
		if p.GetRank() >= 0 {
			rank = fmt.Sprint(p.GetRank())
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%d\t%.1f MiB\t%s\n", p.GetId(), rank, p.GetPid(), PhaseName(p.GetPhase()), p.GetStep(), float64(held)/(1<<20), p.GetMessage())
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}
