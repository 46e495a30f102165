package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// copyEtcd keeps what a run's etcd has, as a backup of its folder does; olderEtcd puts that in its place. No coordinator runs.
func (p *place) copyEtcd() {
	p.t.Helper()
	if err := os.RemoveAll(p.path("backup")); err != nil {
		p.t.Fatal(err)
	}
	if err := os.CopyFS(p.path("backup"), os.DirFS(p.path("runs/job/etcd"))); err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) olderEtcd() {
	p.t.Helper()
	if err := os.RemoveAll(p.path("runs/job/etcd")); err != nil {
		p.t.Fatal(err)
	}
	if err := os.CopyFS(p.path("runs/job/etcd"), os.DirFS(p.path("backup"))); err != nil {
		p.t.Fatal(err)
	}
}

// killRank kills the process of a rank.
func (p *place) killRank(rank int) {
	p.t.Helper()
	for _, w := range p.status("runs/job").Workers {
		if w.Rank == rank {
			if err := syscall.Kill(w.PID, syscall.SIGKILL); err != nil {
				p.t.Fatal(err)
			}
			return
		}
	}
	p.t.Fatalf("no rank %d", rank)
}

// number is a field of the newest event of a kind, 0 if there is none.
func (p *place) number(kind, field string) (n int) {
	p.t.Helper()
	if list := p.events("runs/job", kind); len(list) > 0 {
		var err error
		if n, err = strconv.Atoi(list[len(list)-1].Fields[field]); err != nil {
			p.t.Fatalf("%+v: %v", list[len(list)-1], err)
		}
	}
	return n
}

// awaitSettled waits until the newest generation is a later one than after, of so many members, and settled.
func (p *place) awaitSettled(after, members int) {
	p.t.Helper()
	p.await(fmt.Sprintf("a generation of %d workers after %d", members, after), func() bool {
		n := p.number("generation", "generation")
		return n > after && len(p.members()) == members && p.number("settled", "generation") == n
	})
}

// wantsOnce checks that no number is used twice: of a generation, and of a worker's lives.
func (p *place) wantsOnce() {
	p.t.Helper()
	last := 0
	for _, e := range p.events("runs/job", "generation") {
		number, err := strconv.Atoi(e.Fields["generation"])
		if err != nil || number <= last {
			p.t.Errorf("generation %s after %d: %+v", e.Fields["generation"], last, e)
		}
		last = number
	}
	lives := map[string]bool{}
	for _, e := range p.events("runs/job", "worker_joined") {
		life := e.Fields["worker"] + "#" + e.Fields["incarnation"]
		if lives[life] {
			p.t.Errorf("worker#incarnation %s has lived twice: %+v", life, e)
		}
		lives[life] = true
	}
}

// An older copy of etcd is put in the place of a run's: the run goes on from what its workers know, and nothing is lost.
func TestEtcdFromAnOlderCopy(t *testing.T) {
	for _, c := range []struct {
		name   string
		copied string // where the coordinator is killed, whose etcd is copied then; "": once there is a checkpoint
		fault  string // of the workers, before that
		dies   string // where the next one is, after a worker has died; "": once that has come back, and there is another checkpoint
	}{
		{name: "two generations, a life and a checkpoint ago"},
		{name: "before the first generation", copied: "before write generation 1"},
		{name: "when one process was started", copied: "after write process of worker 0"},
		{name: "when a death was known, and no next life", copied: "before write generation 2", fault: "in-backward@7:1=kill"},
		{name: "all have promised since", dies: "before write generation 2"},
		{name: "all have their shares since", dies: "before write that generation 2 is settled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			args := []string{"launch", "job.yaml", "--workers", "3", "--set", "train.steps=1000000", "--set", "workers.restart=true",
				"--set", "checkpoint.every_steps=5", "--set", "checkpoint.keep=1"}
			first := 0 // generation
			if c.fault != "" {
				first = 1
				args = append(args, "--worker", filepath.Join(programs, "worker-faults")+" --fault "+c.fault)
			}
			start := func(point string) *command {
				if point == "" {
					return p.start(args...)
				}
				return p.startAs("coordinator-faults", []string{"ZEROFLEET_FAULT=" + point}, args...)
			}
			run := start(c.copied)
			if c.copied == "" {
				p.awaitCheckpoint("runs/job", 1)
				run.kill()
			}
			run.wait()
			p.copyEtcd()

			run = start(c.dies)
			p.await("the run to be taken up", func() bool { return len(p.events("runs/job", "worker_adopted")) > 0 })
			p.awaitSettled(first, 3)
			p.awaitCheckpoint("runs/job", 2)
			last := p.number("generation", "generation")
			p.killRank(1)
			if c.dies == "" {
				p.awaitSettled(last, 3)
				p.awaitCheckpoint("runs/job", len(p.events("runs/job", "checkpoint"))+2)
				run.kill()
			}
			run.wait()
			survivors, running := map[string]int{}, p.processes()
			for _, w := range p.status("runs/job").Workers {
				if slices.Contains(running, w.PID) {
					survivors[w.ID] = w.PID
				}
			}
			settled, saved := p.number("settled", "generation"), p.number("checkpoint", "step")
			p.olderEtcd()

			run = start("")
			p.await("etcd to be completed", func() bool {
				select {
				case <-run.done:
					t.Fatalf("the run has ended: %v", run.wait())
				default:
				}
				return len(p.events("runs/job", "etcd_completed")) == 1
			})
			if s, c := p.number("etcd_completed", "settled"), p.number("etcd_completed", "checkpoint_step"); s != settled || c < saved {
				t.Errorf("etcd knows now that generation %d is settled and the checkpoint of step %d committed, want %d and %d", s, c, settled, saved)
			}
			if c.dies == "" { // nothing but the coordinator has failed
				p.awaitStep("runs/job", p.number("checkpoint", "step")+3)
				if n := p.number("generation", "generation"); n != settled {
					t.Errorf("generation %d after %d, though nobody has died: %+v", n, settled, p.events("runs/job", "generation_over"))
				}
			}
			p.awaitSettled(1, 3)
			for _, w := range p.status("runs/job").Workers {
				if pid, survived := survivors[w.ID]; survived && pid != w.PID {
					t.Errorf("worker %s is process %d, and was %d", w.ID, w.PID, pid)
				}
			}
			// It can lose others, and the same again.
			for rank := 2; rank > 0; rank-- {
				n := p.number("generation", "generation")
				p.killRank(rank)
				p.awaitSettled(n, 3)
			}
			run.interrupt()
			run.wait().wants(t, 130, "is kept; to go on from it")
			p.wantsNothingLeft()
			p.wantsOnce()
			for _, kind := range []string{"generation", "settled"} {
				for _, e := range p.events("runs/job", kind) {
					if kind == "generation" && e.Fields["generation"] != "1" && !strings.Contains(e.What, "in their memory") || kind == "settled" && e.Fields["restored_bytes"] != "0" {
						t.Errorf("state was lost: %+v", e)
					}
				}
			}
			if redone := p.wantsDeal("runs/job", 8); redone > 4 {
				t.Errorf("%d steps were made again after at most four deaths", redone)
			}
			p.wantsHashOfEndless()
		})
	}
}
