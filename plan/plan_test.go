package plan

import (
	"encoding/json"
	"errors"
	"flag"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/zerofleet/zerofleet/model/spec"
	"github.com/zerofleet/zerofleet/shard"
)

var update = flag.Bool("update", false, "rewrite testdata")

func mustMake(t *testing.T, cfg spec.Config, m Machine, sets ...string) *Plan {
	t.Helper()
	p, err := Make(parse(t, sets...), cfg, m)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The smallest stage that fits is taken, and activations are computed again only when no stage fits otherwise.
func TestAutoTakesTheLeastThatFits(t *testing.T) {
	auto := []string{"sharding.stage=auto", "workers.max=4", "data.sequence_len=512", "train.micro_batch_size=4"}
	need := func(stage shard.Stage, recompute bool) int64 {
		p, err := one(parse(t, auto...), smollm2, Machine{}, stage, recompute)
		if err != nil {
			t.Fatal(err)
		}
		return p.NeedBytes
	}
	for _, c := range []struct {
		name      string
		memory    int64
		sets      []string
		stage     int
		recompute bool
		fits      bool
	}{
		{"memory not known", 0, nil, 0, false, true},
		{"plenty", 1 << 40, nil, 0, false, true},
		{"just enough for stage 0", need(0, false), nil, 0, false, true},
		{"one byte less", need(0, false) - 1, nil, 1, false, true},
		{"too little for stage 1", need(1, false) - 1, nil, 3, false, true},
		{"too little to keep activations", need(3, false) - 1, nil, 0, true, need(0, true) <= need(3, false)-1},
		{"only stage 3 with recomputation", need(3, true), nil, 3, true, true},
		{"nothing fits", need(3, true) - 1, nil, 3, true, false},
		{"the job says stage 0", need(0, false) - 1, []string{"sharding.stage=0"}, 0, true, true},
		{"the job says stage 0 and no recomputation", need(0, false) - 1, []string{"sharding.stage=0", "train.gradient_checkpointing=false"}, 0, false, false},
		{"the job says recomputation", 1 << 40, []string{"train.gradient_checkpointing=true"}, 0, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := mustMake(t, smollm2, Machine{MemoryBytes: c.memory, MemorySource: "a test"}, append(auto, c.sets...)...)
			if c.name == "too little to keep activations" { // any stage that fits with it will do, and the first does
				if !p.Recompute || !p.Fits {
					t.Errorf("got stage %d, recompute %v, fits %v", p.Stage, p.Recompute, p.Fits)
				}
				return
			}
			if p.Stage != c.stage || p.Recompute != c.recompute || p.Fits != c.fits {
				t.Errorf("got stage %d, recompute %v, fits %v (%s)\nwant stage %d, recompute %v, fits %v", p.Stage, p.Recompute, p.Fits, p.Why,
					c.stage, c.recompute, c.fits)
			}
			if (p.Err() == nil) != c.fits {
				t.Errorf("error %v", p.Err())
			}
		})
	}
}

func TestARefusalSaysWhatIsTooLargeAndWhatWouldFit(t *testing.T) {
	p := mustMake(t, smollm2, Machine{MemoryBytes: 3 << 30, MemorySource: "MemAvailable"}, "sharding.stage=0", "train.micro_batch_size=1",
		"data.sequence_len=128", "train.gradient_checkpointing=false")
	err := p.Err()
	want := "the job does not fit: 2 workers of 3.41 GiB and a coordinator of 128.0 MiB are 6.94 GiB, and this machine has 3.00 GiB (MemAvailable); " +
		"lower train.micro_batch_size or data.sequence_len, or train a smaller model"
	if !errors.Is(err, ErrDoesNotFit) || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	p = mustMake(t, smollm2, Machine{MemoryBytes: 6 << 30, MemorySource: "MemAvailable"}, "sharding.stage=0", "train.micro_batch_size=1",
		"data.sequence_len=128", "train.gradient_checkpointing=false", "recovery.replicas=0")
	if err := p.Err(); err == nil || !strings.Contains(err.Error(), "; sharding.stage: 1 takes 2.41 GiB a worker and fits") {
		t.Errorf("got %v", err)
	}
	p = mustMake(t, smollm2, Machine{}, "workers.device_memory_bytes=1GiB", "sharding.stage=3")
	if err := p.Err(); err == nil || !strings.Contains(err.Error(), "and workers.device_memory_bytes is 1.00 GiB") {
		t.Errorf("got %v", err)
	}
}

// A GPU's memory is not this machine's: only the job's own budget refuses.
func TestAGPUHasMemoryOfItsOwn(t *testing.T) {
	small := Machine{MemoryBytes: 1 << 30, MemorySource: "MemAvailable"}
	for _, c := range []struct {
		sets []string
		fits bool
		why  string
	}{
		{[]string{"workers.device=cpu"}, false, "this machine has"},
		{[]string{"workers.device=cuda"}, true, "not known here"},
		{[]string{"workers.device=cuda", "workers.device_memory_bytes=80GiB"}, true, "workers.device_memory_bytes is 80.00 GiB"},
		{[]string{"workers.device=cuda", "workers.device_memory_bytes=1GiB"}, false, "workers.device_memory_bytes is 1.00 GiB"},
	} {
		p := mustMake(t, smollm2, small, append(c.sets, "sharding.stage=0")...)
		if p.Fits != c.fits || !strings.Contains(p.Why, c.why) {
			t.Errorf("%v: fits %v: %s; want %v: %s", c.sets, p.Fits, p.Why, c.fits, c.why)
		}
	}
}

// A configuration that nobody could hold is refused, with numbers that have not wrapped around.
func TestMakeRefusesWhatDoesNotEvenAddUp(t *testing.T) {
	huge := smollm2
	huge.Width, huge.Heads, huge.KVHeads, huge.Layers, huge.FeedForward = 1<<20, 1<<14, 1<<14, 1<<12, 1<<22
	_, err := Make(parse(t, "data.sequence_len=16777216", "train.micro_batch_size=64", "train.global_batch_size=64"), huge, Machine{})
	if !errors.Is(err, ErrDoesNotFit) {
		t.Errorf("got %v", err)
	}
	if _, err := Make(parse(t), spec.Config{}, Machine{}); err == nil {
		t.Error("a configuration that is none was planned")
	}
	p := mustMake(t, smollm2, Machine{MemoryBytes: 1 << 40}, "train.global_batch_size=1048576", "train.micro_batch_size=1", "workers.max=1")
	if !p.Fits || p.Wire.Total() != 0 {
		t.Errorf("got %+v", p)
	}
}

// What rank 0 sends, counted another way than by walking the schedule.
func TestWireBytes(t *testing.T) {
	const world, rounds, blocks = 2, 3, 30
	layers := smollm2.Units()
	part := func(u int) int64 {
		l, err := shard.NewLayout(layers[u].Elems, world)
		if err != nil {
			t.Fatal(err)
		}
		return int64(l.PartElems())
	}
	var all int64
	for u := range layers {
		all += part(u)
	}
	block := part(1)
	for _, c := range []struct {
		stage string
		want  Wire
	}{
		{"0", Wire{Gradients: rounds * all * 4, Update: all * 4}},
		{"1", Wire{Gradients: rounds * all * 4, Update: all * 2}},
		{"2", Wire{Gradients: rounds * all * 4, Update: all * 2}},
		// First round: every unit, then backwards all blocks but the two last. The later rounds find the
		// embedding, the head and the first two blocks in place.
		{"3", Wire{Gradients: rounds * all * 4, Gathers: 2 * (all + rounds*(blocks-2)*block + (rounds-1)*(blocks-2)*block)}},
	} {
		p := mustMake(t, smollm2, Machine{}, "sharding.stage="+c.stage, "train.global_batch_size=6", "train.micro_batch_size=1", "recovery.replicas=0")
		if c.want.Operations = rounds*(blocks+2) + blocks + 2; c.stage == "3" {
			c.want.Operations = rounds*(blocks+2) + (blocks + 2) + rounds*(blocks-2) + (rounds-1)*(blocks-2)
		}
		if p.Wire != c.want {
			t.Errorf("stage %s: got %+v, want %+v", c.stage, p.Wire, c.want)
		}
		if c.stage != "0" { // the reduced gradient of the own shard goes to the buddy, once
			c.want.Replica, c.want.Operations = all*4, c.want.Operations+blocks+2
		}
		p = mustMake(t, smollm2, Machine{}, "sharding.stage="+c.stage, "train.global_batch_size=6", "train.micro_batch_size=1")
		if p.Wire != c.want {
			t.Errorf("stage %s with replicas: got %+v, want %+v", c.stage, p.Wire, c.want)
		}
	}
}

func TestEstimate(t *testing.T) {
	m := Machine{Cores: 2, ThreadFLOPsPerSecond: 50e9}
	base := mustMake(t, smollm2, m, "workers.max=1")
	// 6 operations for each parameter that a product uses and token, and attention on top.
	tokens := 16 * 512.0
	if floor := 6 * tokens * float64(smollm2.Params()); base.Estimate.StepFLOPs < floor || base.Estimate.StepFLOPs > 1.25*floor {
		t.Errorf("got %.3g operations, want %.3g and a little", base.Estimate.StepFLOPs, floor)
	}
	two := mustMake(t, smollm2, m, "workers.max=2")
	if r := base.Estimate.Compute.Seconds() / two.Estimate.Compute.Seconds(); math.Abs(r-2) > 0.01 {
		t.Errorf("two workers on two cores compute %v times as fast as one", r)
	}
	four := mustMake(t, smollm2, m, "workers.max=4")
	if r := two.Estimate.Compute.Seconds() / four.Estimate.Compute.Seconds(); math.Abs(r-1) > 0.01 {
		t.Errorf("four workers on two cores compute %v times as fast as two", r)
	}
	again := mustMake(t, smollm2, m, "workers.max=1", "train.gradient_checkpointing=true")
	if r := again.Estimate.Compute.Seconds() / base.Estimate.Compute.Seconds(); r < 1.2 || r > 1.34 {
		t.Errorf("computing activations again costs %v times as much", r)
	}
	if base.Estimate.StepTime < time.Second {
		t.Errorf("a step in %v", base.Estimate.StepTime)
	}
}

func TestMachine(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	mem := file("MemTotal:       24000000 kB\nMemFree: 1 kB\nMemAvailable:   20971520 kB\n")
	for _, c := range []struct {
		name   string
		files  fstest.MapFS
		memory int64
		source string
	}{
		{"nothing known", fstest.MapFS{}, 0, ""},
		{"no group", fstest.MapFS{"proc/meminfo": mem}, 20 << 30, "MemAvailable"},
		{"version 2, no limit", fstest.MapFS{"proc/meminfo": mem, "proc/self/cgroup": file("0::/user\n"),
			"sys/fs/cgroup/user/memory.max": file("max\n")}, 20 << 30, "MemAvailable"},
		{"version 2, in a container", fstest.MapFS{"proc/meminfo": mem, "proc/self/cgroup": file("0::/\n"),
			"sys/fs/cgroup/memory.max": file("2147483648\n"), "sys/fs/cgroup/memory.current": file("1073741824\n"),
			"sys/fs/cgroup/memory.stat": file("anon 5\ninactive_file 536870912\n")}, 3 << 29, "the control group's limit"},
		{"version 2, the limit is above", fstest.MapFS{"proc/meminfo": mem, "proc/self/cgroup": file("0::/a/b\n"),
			"sys/fs/cgroup/a/memory.max": file("1073741824\n"), "sys/fs/cgroup/a/b/memory.max": file("max\n")}, 1 << 30, "the control group's limit"},
		{"version 1", fstest.MapFS{"proc/meminfo": mem, "proc/self/cgroup": file("9:cpu:/x\n4:memory:/docker/1\n"),
			"sys/fs/cgroup/memory/memory.limit_in_bytes": file("3221225472\n"), "sys/fs/cgroup/memory/memory.usage_in_bytes": file("1073741824\n"),
			"sys/fs/cgroup/memory/memory.stat": file("total_inactive_file 0\n")}, 2 << 30, "the control group's limit"},
		{"version 1, no limit", fstest.MapFS{"proc/meminfo": mem, "proc/self/cgroup": file("4:memory:/\n"),
			"sys/fs/cgroup/memory/memory.limit_in_bytes": file("9223372036854771712\n")}, 20 << 30, "MemAvailable"},
		{"odd files", fstest.MapFS{"proc/meminfo": file("MemAvailable: lots\n"), "proc/self/cgroup": file("x\n0::\n:::\n")}, 0, ""},
	} {
		m := read(c.files, 2)
		if m.MemoryBytes != c.memory || m.MemorySource != c.source || m.Cores != 2 {
			t.Errorf("%s: got %+v, want %d by %s", c.name, m, c.memory, c.source)
		}
	}
	for flags, want := range map[string]string{"fpu avx2 avx512f avx512_bf16 x": "avx512_bf16", "avx2 avx512f": "avx512f", "sse avx2": "avx2", "sse": ""} {
		if got := read(fstest.MapFS{"proc/cpuinfo": file("processor\t: 0\nflags\t\t: " + flags + "\n")}, 1).Vector; got != want {
			t.Errorf("%s: got %q, want %q", flags, got, want)
		}
	}
}

func TestText(t *testing.T) {
	p := mustMake(t, smollm2, Machine{Cores: 2, MemoryBytes: 20 << 30, MemorySource: "MemAvailable", Vector: "avx512_bf16"},
		"name=smollm2", "train.global_batch_size=4", "data.sequence_len=128")
	if *update {
		if err := os.WriteFile("testdata/plan.txt", []byte(p.Text()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/plan.txt")
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Text(); got != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var back Plan
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	back.shape = p.shape
	if !reflect.DeepEqual(&back, p) {
		t.Errorf("got %+v, want %+v", &back, p)
	}
}
