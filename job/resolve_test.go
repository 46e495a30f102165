package job

import (
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var digests = Digests{Model: "sha256:aa", Train: []string{"sha256:bb"}}

func mustResolve(t *testing.T, j *Job, d Digests) *Resolved {
	t.Helper()
	r, err := Resolve(j, d)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// equal compares what jobs say, not where they say it.
func equal(a, b Job) bool {
	a.at, b.at = nil, nil
	return reflect.DeepEqual(a, b)
}

func TestResolvedJobIsTheSameJobWhenSubmittedAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "job.resolved.yaml")
	first := mustResolve(t, mustParse(t, minimal, "train.precision=f32", "sharding.stage=auto"), digests).WithFingerprint("sha256:ff")
	if err := os.WriteFile(path, first.Marshal(), 0o600); err != nil {
		t.Fatal(err)
	}
	j, err := Load(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	again := mustResolve(t, j, digests)
	if !equal(first.Job, again.Job) || string(first.Marshal()) != string(again.Marshal()) {
		t.Errorf("got\n%s\nwant\n%s", again.Marshal(), first.Marshal())
	}
	read, err := ReadResolved(path)
	if err != nil || !equal(read.Job, first.Job) || read.Pins().Fingerprint != "sha256:ff" {
		t.Errorf("read: %+v, %v", read, err)
	}
}

func TestSettleTakesOnlyWhatIsAuto(t *testing.T) {
	auto := mustResolve(t, mustParse(t, minimal, "sharding.stage=auto"), digests)
	settled := auto.Settle(1, true)
	stage, ok := settled.Sharding.Stage.Number()
	recompute, known := settled.Train.GradientCheckpointing.Bool()
	if stage != 1 || !ok || !recompute || !known {
		t.Errorf("got stage %d, %v, recompute %v, %v", stage, ok, recompute, known)
	}
	if _, ok := auto.Sharding.Stage.Number(); ok {
		t.Error("Settle changed its receiver")
	}
	said := mustResolve(t, mustParse(t, minimal, "train.gradient_checkpointing=false"), digests).Settle(1, true)
	if said.Sharding.Stage != 3 || said.Train.GradientCheckpointing != Off {
		t.Errorf("got %v, %v, want what the job says", said.Sharding.Stage, said.Train.GradientCheckpointing)
	}
}

func TestResolveRefusesASourceThatChanged(t *testing.T) {
	r := mustResolve(t, mustParse(t, minimal), digests)
	j := mustParse(t, string(r.Marshal()))
	_, err := Resolve(j, Digests{Model: "sha256:aa", Train: []string{"sha256:cc"}})
	if err == nil || !strings.HasSuffix(err.Error(), ": resolved.train[0]: a.txt changed: it was sha256:bb and is sha256:cc") || !IsBadInput(err) {
		t.Errorf("got %v", err)
	}
	_, err = Resolve(j, Digests{Model: "sha256:xx", Tokenizer: "sha256:t", Train: []string{"sha256:bb"}})
	if err == nil || strings.Count(err.Error(), "changed") != 2 {
		t.Errorf("got %v", err)
	}
	if _, err = Resolve(j, Digests{Model: "sha256:aa"}); err == nil {
		t.Error("digests that are missing were accepted")
	}
}

func TestReadResolvedWantsPins(t *testing.T) {
	path := filepath.Join(t.TempDir(), "job.yaml")
	if err := os.WriteFile(path, []byte(minimal), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadResolved(path); err == nil || !strings.Contains(err.Error(), "never submitted") {
		t.Errorf("got %v", err)
	}
}

func TestDiff(t *testing.T) {
	old := mustResolve(t, mustParse(t, minimal), digests)
	for _, c := range []struct {
		name    string
		sets    []string
		digests Digests
		want    []string
		same    bool
	}{
		{"nothing", nil, digests, nil, true},
		{"what a resumed job may change", []string{"name=n", "workers.max=4", "sharding.stage=1", "log.every_steps=2", "train.gradient_checkpointing=true",
			"train.max_seconds=9", "eval.every_steps=0", "collective.checksum=false"}, digests, []string{
			"name: n, was job", "train.max_seconds: 9, was not set", "train.gradient_checkpointing: true, was auto", "sharding.stage: 1, was 3",
			"collective.checksum: false, was true", "workers.max: 4, was 2", "checkpoint.store: runs/n/checkpoints, was runs/job/checkpoints",
			"eval.every_steps: 0, was 100", "log.every_steps: 2, was 1", "output.dir: runs/n, was runs/job"}, true},
		{"the learning rate", []string{"train.optimizer.learning_rate=1"}, digests, []string{"train.optimizer.learning_rate: 1, was 2.0e-05"}, false},
		{"steps to epochs", []string{"train.steps=null", "train.epochs=1"}, digests, []string{"train.epochs: 1, was not set", "train.steps: not set, was 3"}, false},
		{"the same data elsewhere", []string{"data.train[0].path=b.txt", "model.base=m"}, digests, nil, true},
		{"other data", nil, Digests{Model: "sha256:aa", Train: []string{"sha256:cc"}}, []string{"data.train[0].path: sha256:cc, was sha256:bb"}, false},
		{"more data", []string{"data.train=[{path: a.txt}, {path: b.txt}]"}, Digests{Model: "sha256:aa", Train: []string{"sha256:bb", "sha256:cc"}}, []string{
			"data.train[1].path: sha256:cc, was not set", "data.train[1].format: text, was not set", "data.train[1].weight: 1, was not set"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			changes := Diff(old, mustResolve(t, mustParse(t, minimal, c.sets...), c.digests))
			var got []string
			for _, x := range changes {
				got = append(got, x.String())
			}
			if !reflect.DeepEqual(got, c.want) || SameJob(changes) != c.same {
				t.Errorf("got  %q, same job %v\nwant %q, same job %v", got, SameJob(changes), c.want, c.same)
			}
		})
	}
}

// randomJob is any job that a file can say.
func randomJob(t *rapid.T) *Job {
	j := new(Job)
	fill(t, reflect.ValueOf(j).Elem())
	if j.Train.Steps > 0 == (j.Train.Epochs > 0) {
		j.Train.Steps, j.Train.Epochs = 7, 0
	}
	j.Train.MicroBatchSize = 1 + j.Train.MicroBatchSize%4
	j.Train.GlobalBatchSize = j.Train.MicroBatchSize * (1 + j.Train.GlobalBatchSize%9)
	j.Workers.Min = min(j.Workers.Min, j.Workers.Max)
	j.Data.LossOn = ""
	if len(j.Data.Eval) > 0 {
		j.Data.EvalFraction = 0
	}
	for _, s := range [][]Source{j.Data.Train, j.Data.Eval} {
		for i := range s {
			s[i].Path += ".jsonl"
		}
	}
	j.settle("job.yaml")
	return j
}

func fill(t *rapid.T, v reflect.Value) {
	for _, s := range fieldsOf(v.Type()) {
		f := v.Field(s.index)
		optional := !s.required && s.fallback == "" && f.Kind() != reflect.Struct
		if optional && rapid.Bool().Draw(t, s.name+" not set") {
			continue
		}
		fillValue(t, f, s)
	}
}

func fillValue(t *rapid.T, f reflect.Value, s fieldSpec) {
	lo, hi := 0.0, 1e9
	if s.bounds != nil {
		lo, hi = s.bounds.lo, min(s.bounds.hi, 1e15)
	}
	choice := ""
	if len(s.enum) > 0 {
		choice = rapid.SampledFrom(s.enum).Draw(t, s.name)
	}
	switch f.Interface().(type) {
	case Stage:
		n, err := strconv.Atoi(choice)
		if err != nil {
			n = int(StageAuto)
		}
		f.SetInt(int64(n))
		return
	}
	switch f.Kind() {
	case reflect.Struct:
		fill(t, f)
	case reflect.Pointer:
		f.Set(reflect.New(f.Type().Elem()))
		fill(t, f.Elem())
	case reflect.Slice:
		n := rapid.IntRange(1, 3).Draw(t, s.name+" length")
		f.Set(reflect.MakeSlice(f.Type(), n, n))
		fallthrough
	case reflect.Array:
		for i := range f.Len() {
			fillValue(t, f.Index(i), s)
		}
	case reflect.Bool:
		f.SetBool(rapid.Bool().Draw(t, s.name))
	case reflect.String:
		switch {
		case choice != "":
			f.SetString(choice)
		case s.name == "name":
			f.SetString(rapid.StringMatching(`[A-Za-z0-9][A-Za-z0-9._-]{0,62}`).Draw(t, s.name))
		default:
			f.SetString(rapid.StringMatching(`[^\x00:*?\[\]\\]{1,20}|[a-z./]{1,20}`).Draw(t, s.name))
		}
	case reflect.Float64:
		x := rapid.Float64Range(lo, hi).Draw(t, s.name)
		if !s.bounds.contains(x) {
			x = (lo + min(hi, lo+1)) / 2
		}
		f.SetFloat(x)
	default:
		n := int64(rapid.Float64Range(math.Ceil(lo), math.Floor(hi)).Draw(t, s.name))
		if choice != "" {
			n, _ = strconv.ParseInt(choice, 10, 64)
		}
		if f.CanUint() {
			f.SetUint(uint64(n))
		} else {
			f.SetInt(n)
		}
	}
}

func TestEveryJobReadsBackAsItself(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		j := randomJob(t)
		text := emit(j)
		back, err := Parse("job.yaml", text, nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if !equal(*j, *back) {
			t.Fatalf("got\n%s\nwant\n%s", emit(back), text)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(minimal), "train.steps=4")
	f.Add([]byte(minimal+"method: {lora: {}}\nseed: 0x1\n"), "data.train[0].weight=1.5")
	f.Add([]byte("a: &x [*x]\n? b\n: |\n c\n--- !!str\n"), "a.b[0].c={d: e}")
	f.Add([]byte("model:\n  base: \"\\u00e9\"\n\t- x"), "=")
	if text, err := os.ReadFile("../examples/tiny.yaml"); err == nil {
		f.Add(text, "sharding.stage=auto")
	}
	f.Fuzz(func(t *testing.T, text []byte, option string) {
		if len(text) > 4096 || len(option) > 256 {
			return
		}
		j, err := Parse("job.yaml", text, []string{option})
		if err != nil {
			if !IsBadInput(err) || err.Error() == "" {
				t.Fatalf("%q, %q: %v", text, option, err)
			}
			return
		}
		back, err := Parse("job.yaml", emit(j), nil)
		if err != nil || !equal(*j, *back) {
			t.Fatalf("%q, %q does not read back: %v\n%s", text, option, err, emit(j))
		}
	})
}
