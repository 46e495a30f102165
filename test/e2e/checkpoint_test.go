package e2e_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// smallDisk mounts a tmpfs of a size, and of so many files, at a name.
func (p *place) smallDisk(name string, size, inodes int) {
	p.t.Helper()
	if os.Geteuid() != 0 {
		p.t.Skip("skipped: needs root to mount")
	}
	dir := p.path(name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		p.t.Skipf("skipped: needs root to mount: %v", err)
	}
	p.t.Cleanup(func() {
		p.end() // what has its files open would hold it
		if err := syscall.Unmount(dir, 0); err != nil {
			p.t.Error(err)
		}
	})
	p.remount(dir, size, inodes)
}

// stepOf is the step that an event is about.
func (p *place) stepOf(e event) int {
	p.t.Helper()
	n, err := strconv.Atoi(e.Fields["step"])
	if err != nil {
		p.t.Fatalf("event %+v: %v", e, err)
	}
	return n
}

// A checkpoint that finds no room stops no training: it is told of, tried again, and there when there is room again.
func TestTrainingGoesOnWithoutRoomForCheckpoints(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.smallDisk("small", 6000<<10, 1000)
	c := p.start("launch", "job.yaml", "--set", "train.steps=1000000", "--set", "train.global_batch_size=2",
		"--set", "checkpoint.store=small/checkpoints", "--set", "checkpoint.keep=100")
	failed := func() bool { return len(p.events("runs/job", "checkpoint_failed")) > 0 }
	p.await("a checkpoint without room", failed)
	first := p.events("runs/job", "checkpoint_failed")[0]
	if !strings.Contains(first.Why, "no space left on device") || !strings.Contains(first.Why, ".safetensors") {
		t.Errorf("told: %+v", first)
	}
	// It goes on past the step at which the next one is due, which takes the place of the first.
	p.awaitStep("runs/job", p.stepOf(first)+11)
	s := p.status("runs/job")
	kept := p.checkpointSteps("runs/job")
	if !strings.Contains(s.CheckpointFailing, "no space left on device") || s.Losses.CheckpointFailures == 0 || s.CheckpointStep != kept[len(kept)-1] {
		t.Errorf("checkpoints of steps %v, status %+v", kept, s)
	}
	if text := p.run("status", "runs/job").wants(t, 0).out; !strings.Contains(text, "checkpoint fails") {
		t.Errorf("status says:\n%s", text)
	}
	p.remount(p.path("small"), 200<<20, 100_000)
	n := len(p.events("runs/job", "checkpoint"))
	p.awaitCheckpoint("runs/job", n+1)
	p.await("the status to be well", func() bool { return p.status("runs/job").CheckpointFailing == "" })
	p.run("cancel", "runs/job").wants(t, 0)
	c.wait().wants(t, 130, "training goes on")
	p.run("checkpoints", "verify", "runs/job").wants(t, 0)
	_, last := p.hash("runs/job")
	p.wantsSteps("runs/job", 1, last)
	p.wantsNothingLeft()
}

// A rank dies while it writes its part: the checkpoint comes to nothing, and another one is taken after the next step.
func TestACheckpointThatADeathInterruptsIsTakenAgain(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.run("launch", "job.yaml", "--workers", "3", "--worker", filepath.Join(programs, "worker-faults")+" --fault in-checkpoint@5:1=kill").wants(t, 0)
	p.wantsHash("runs/job", 12)
	p.wantsNothingLeft()
	var steps []int
	for _, e := range p.events("runs/job", "checkpoint") {
		steps = append(steps, p.stepOf(e))
	}
	if len(steps) == 0 || steps[0] <= 5 || steps[0] >= 10 {
		t.Errorf("checkpoints of steps %v: want none of step 5, and one before step 10", steps)
	}
}

// A bit flips in a shard or in a replica. The next checkpoint finds it, is not committed, and the job goes back to the
// one before, or to the base model: it ends with the right bits.
func TestAFlippedBitInMemory(t *testing.T) {
	for _, c := range []struct {
		name, fault string
		rank        string // whose shard and replica differ
		every       int
		back        string
	}{
		{"in a replica", "replica@7:1", "0", 5, "the checkpoint of step 5"},
		{"in a shard", "shard@7:1", "1", 5, "the checkpoint of step 5"},
		{"before any checkpoint", "shard@3:0", "0", 0, "the base model"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			p.run("launch", "job.yaml", "--workers", "3", "--set", fmt.Sprintf("checkpoint.every_steps=%d", c.every),
				"--worker", filepath.Join(programs, "worker-faults")+" --fault "+c.fault+"=flip").wants(t, 0, "replica of rank "+c.rank+" differs", "back to "+c.back)
			p.wantsHash("runs/job", 12)
			p.wantsSteps("runs/job", 1, 12)
			p.wantsNothingLeft()
			p.run("checkpoints", "verify", "runs/job").wants(t, 0)
			told := p.events("runs/job", "replica_differs")
			if len(told) != 1 || told[0].Fields["rank"] != c.rank || told[0].Fields["unit"] == "" || !strings.Contains(told[0].What, "master of "+told[0].Fields["unit"]) {
				t.Errorf("told %+v", told)
			}
			if died := p.events("runs/job", "worker_died"); len(died) > 0 {
				t.Errorf("died: %+v", died)
			}
			if s := p.status("runs/job"); s.Losses.DamagedReplicas != 1 {
				t.Errorf("status %+v", s)
			}
		})
	}
}

// Whatever is damaged of the newest checkpoint, a resume names it and goes on from the one before.
func TestResumeNamesWhatIsDamaged(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.run("launch", "job.yaml").wants(t, 0)
	manifests, err := filepath.Glob(p.path("runs/job/checkpoints/step-0000000012/*-manifest-*.json"))
	if err != nil || len(manifests) != 1 {
		t.Fatalf("manifests %v: %v", manifests, err)
	}
	manifest, part := manifests[0], p.parts("runs/job", 12)[1]
	for i, c := range []struct {
		name, file string
		damage     func(b []byte) []byte
		words      string
	}{
		{"a bit of a part", part, func(b []byte) []byte { b[len(b)-100] ^= 4; return b }, "v of block.3"},
		{"the end of a part", part, func(b []byte) []byte { return b[:len(b)-1] }, "bytes, want"},
		{"a bit of the manifest", manifest, func(b []byte) []byte {
			at := bytes.Index(b, []byte(`"sample": `)) // another number, and JSON still
			b[at+len(`"sample": `)] ^= 1
			return b
		}, "checksum"},
		{"the end of the manifest", manifest, func(b []byte) []byte { return b[:len(b)/2] }, "checksum"},
		{"all of the manifest", manifest, func([]byte) []byte { return nil }, "checksum"},
	} {
		t.Run(c.name, func(t *testing.T) {
			whole, err := os.ReadFile(c.file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(c.file, c.damage(bytes.Clone(whole)), 0o644); err != nil {
				t.Fatal(err)
			}
			key := filepath.Join("step-0000000012", filepath.Base(c.file))
			p.run("checkpoints", "verify", "runs/job").wants(t, 1, key, c.words, "1 of 3 checkpoints are damaged")
			to := fmt.Sprintf("runs/%d", i)
			p.run("launch", "job.yaml", "--resume", "runs/job", "--set", "output.dir="+to).
				wants(t, 0, "a newer checkpoint is damaged and not used", key, c.words, "going on from the checkpoint of step 10")
			p.wantsHash(to, 12)
			if err := os.WriteFile(c.file, whole, 0o644); err != nil {
				t.Fatal(err)
			}
		})
	}
	p.run("checkpoints", "verify", "runs/job").wants(t, 0)
}

// Weights that overflow in the last update, which no further step would find, are no finished model. They lie in the
// embedding of a byte that the text does not have, so that no gradient tells.
func TestWeightsThatOverflowInTheLastUpdate(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.run("launch", "job.yaml", "--set", "model.base=preset://tiny-untied", "--set", "train.steps=1").wants(t, 0)
	p.run("export", "runs/job", "--out", "base").wants(t, 0)
	p.edit("base/model.safetensors", func(s string) string {
		tensors, data := safetensors(t, s)
		at := len(s) - len(data) + tensors["model.embed_tokens.weight"].Offsets[0]
		return s[:at] + string(binary.LittleEndian.AppendUint32(nil, math.Float32bits(3e38))) + s[at+4:]
	})
	e := p.run("launch", "job.yaml", "--set", "model.base=base", "--set", "output.dir=runs/inf", "--set", "train.steps=1",
		"--set", "train.optimizer.learning_rate=1", "--set", "train.optimizer.weight_decay=11", "--set", "train.schedule={name: constant, warmup_steps: 0}")
	e.wants(t, 1, "checkpoint of step 1: weights of model.embed_tokens.weight are not finite", "no checkpoint was kept")
	if _, err := os.Stat(p.path("runs/inf/model")); !os.IsNotExist(err) {
		t.Errorf("a model was written (%v)", err)
	}
	p.wantsNothingLeft()
}
