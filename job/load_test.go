package job

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// minimal is the least that a job file can say.
const minimal = `model: {base: preset://tiny}
data:
  train: [{path: a.txt}]
train: {steps: 3}
`

func mustParse(t *testing.T, text string, sets ...string) *Job {
	t.Helper()
	j, err := Parse("job.yaml", []byte(text), sets)
	if err != nil {
		t.Fatalf("parse %q with %q: %v", text, sets, err)
	}
	return j
}

func TestDefaults(t *testing.T) {
	got := mustParse(t, minimal)
	got.at = nil
	want := &Job{
		APIVersion: "zerofleet/v1", Name: "job", Seed: 42,
		Model:  Model{Base: "preset://tiny", ChatTemplate: "auto"},
		Method: Method{Type: "full"},
		Data: Data{Train: []Source{{Path: "a.txt", Format: "text", Weight: 1}}, SequenceLen: 512, Packing: true,
			Overlong: "truncate"},
		Train: Train{Steps: 3, GlobalBatchSize: 16, MicroBatchSize: 2, Leaf: 1,
			Optimizer: Optimizer{Name: "adamw", LearningRate: 2e-5, Betas: [2]float64{0.9, 0.999}, Eps: 1e-8, StateBits: 32},
			Schedule:  Schedule{Name: "cosine", WarmupSteps: 20, MinLearningRateRatio: 0.1},
			Precision: "bf16", MaxGradNorm: 1, GradientCheckpointing: Auto, OnNaN: "stop"},
		Sharding:   Sharding{Stage: 3, Wire: Wire{Parameters: "bf16", Gradients: "f32"}, Reduction: "fold", Exact: "required"},
		Collective: Collective{Transport: "auto", ReceiveBudgetBytes: 256 << 20, Checksum: true, Overlap: true, DeadlineSeconds: 60},
		Workers:    Workers{Min: 1, Max: 2, Device: "auto", Threads: 1, Spot: Spot{Provider: "none", GraceSeconds: 30}, OrphanSeconds: 60},
		Recovery:   Recovery{Replicas: 1, ReplicaTier: "host", BelowMin: "wait"},
		Checkpoint: Checkpoint{Store: "runs/job/checkpoints", EverySteps: 200, Keep: 3, OnExit: true, RetrySeconds: 300},
		Eval:       Eval{EverySteps: 100},
		Log:        Log{EverySteps: 1, TensorBoard: true},
		Output:     Output{Dir: "runs/job", Formats: []string{"safetensors"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestDefaultsThatDependOnOtherFields(t *testing.T) {
	for _, c := range []struct {
		set  []string
		got  func(*Job) any
		want any
	}{
		{[]string{"train.precision=f32"}, func(j *Job) any { return j.Sharding.Wire.Parameters }, "f32"},
		{[]string{"train.precision=f32", "sharding.wire.parameters=bf16"}, func(j *Job) any { return j.Sharding.Wire.Parameters }, "bf16"},
		{[]string{"data.train[0].path=x.jsonl"}, func(j *Job) any { return j.Data.Train[0].Format }, "messages"},
		{[]string{"name=n"}, func(j *Job) any { return j.Checkpoint.Store }, "runs/n/checkpoints"},
		{[]string{"output.dir=o"}, func(j *Job) any { return j.Checkpoint.Store }, "o/checkpoints"},
		{[]string{"output.dir=o", "checkpoint.store=s"}, func(j *Job) any { return j.Checkpoint.Store }, "s"},
		{[]string{"checkpoint.store=s3://b/p?region=r"}, func(j *Job) any { return j.Checkpoint.Store }, "s3://b/p?region=r"},
		{[]string{"sharding.stage=auto"}, func(j *Job) any { return j.Sharding.Stage }, StageAuto},
		{[]string{"train.gradient_checkpointing=true"}, func(j *Job) any { return j.Train.GradientCheckpointing }, On},
		{[]string{"train.steps=null", "train.epochs=2"}, func(j *Job) any { return j.Train.Epochs }, 2},
		{[]string{"train={epochs: 2, micro_batch_size: 8}"}, func(j *Job) any { return j.Train.Leaves() }, 2},
		{[]string{"workers.device_memory_bytes=1.5GiB"}, func(j *Job) any { return j.Workers.DeviceMemoryBytes }, Bytes(3 << 29)},
		{[]string{"seed=0x10"}, func(j *Job) any { return j.Seed }, uint64(16)},
		{[]string{"seed=010"}, func(j *Job) any { return j.Seed }, uint64(10)},
		{[]string{"train.optimizer.learning_rate=1e-4"}, func(j *Job) any { return j.Train.Optimizer.LearningRate }, 1e-4},
		{[]string{"output.dir='007'"}, func(j *Job) any { return j.Output.Dir }, "007"},
		{[]string{"data.eval=[{path: b.txt}]", "data.eval[0].weight=2"}, func(j *Job) any { return j.Data.Eval[0].Weight }, 2.0},
	} {
		if got := c.got(mustParse(t, minimal, c.set...)); got != c.want {
			t.Errorf("%q: got %v, want %v", c.set, got, c.want)
		}
	}
}

// Each bad input gives exactly these lines: what, where, and what to do.
func TestFaults(t *testing.T) {
	for _, c := range []struct {
		name, text string
		sets       []string
		want       string
	}{
		{name: "empty", text: "", want: "job.yaml:1:1: data.train: required: what to train on\n" +
			"job.yaml:1:1: model.base: required: a Hugging Face folder, a .gguf file, hf://org/name, or preset://tiny or preset://tiny-untied (random weights)\n" +
			"job.yaml:1:1: train: neither epochs nor steps: want one of them"},
		{name: "misspelt field", text: minimal + "sharding:\n  stag: 1\n",
			want: `job.yaml:6:3: sharding.stag: unknown field (did you mean "stage"?)`},
		{name: "misspelt section", text: minimal + "chekpoint: {keep: 1}\n",
			want: `job.yaml:5:1: chekpoint: unknown field (did you mean "checkpoint"?)`},
		{name: "field of another section", text: minimal + "learning_rate: 1\n",
			want: `job.yaml:5:1: learning_rate: unknown field (did you mean train.optimizer.learning_rate?)`},
		{name: "unknown field", text: minimal + "eval: {zzzzzz: 1}\n",
			want: `job.yaml:5:8: eval.zzzzzz: unknown field; eval has every_steps`},
		{name: "wrong types, all at once", text: minimal + "seed: ten\nname: 5\nworkers: {min: 1.5, max: [], threads: {}}\nlog: {tensorboard: yes}\noutput: 7\n",
			want: `job.yaml:5:7: seed: ten: want a whole number at least 0 and at most 9007199254740991
job.yaml:6:7: name: 5: want text (in quotes, if it looks like a number)
job.yaml:7:16: workers.min: 1.5: want a whole number at least 1 and at most 65536
job.yaml:7:26: workers.max: a list: want a whole number at least 1 and at most 65536
job.yaml:7:39: workers.threads: a section: want a whole number at least 1 and at most 4096
job.yaml:8:20: log.tensorboard: yes: want true or false
job.yaml:9:9: output: 7: want a section of fields`},
		{name: "quoted number", text: minimal, sets: []string{`seed="4"`},
			want: `--set seed="4": seed: "4": want a whole number at least 0 and at most 9007199254740991`},
		{name: "quoted stage", text: minimal, sets: []string{`sharding.stage="3"`},
			want: `--set sharding.stage="3": sharding.stage: "3": want 0, 1, 2, 3 or auto`},
		{name: "out of range", text: minimal, sets: []string{"train.optimizer.learning_rate=0", "train.optimizer.betas=[0.9, 1]", "data.sequence_len=1", "workers.max=0"},
			want: `--set train.optimizer.learning_rate=0: train.optimizer.learning_rate: 0: want a number above 0 and at most 1000
--set train.optimizer.betas=[0.9, 1]: train.optimizer.betas[1]: 1: want a number at least 0 and below 1
--set data.sequence_len=1: data.sequence_len: 1: want a whole number at least 2 and at most 16777216
--set workers.max=0: workers.max: 0: want a whole number at least 1 and at most 65536`},
		{name: "not finite", text: minimal, sets: []string{"train.max_grad_norm=.nan", "train.optimizer.eps=.inf", "train.max_seconds=1e999"},
			want: `--set train.max_grad_norm=.nan: train.max_grad_norm: .nan: want a number at least 0
--set train.optimizer.eps=.inf: train.optimizer.eps: .inf: want a number above 0 and at most 1
--set train.max_seconds=1e999: train.max_seconds: 1e999: want a number above 0 and at most 1000000000`},
		{name: "three betas", text: minimal, sets: []string{"train.optimizer.betas=[0.1, 0.2, 0.3]"},
			want: `--set train.optimizer.betas=[0.1, 0.2, 0.3]: train.optimizer.betas: 3 values: want a list of 2: each a number at least 0 and below 1`},
		{name: "nearest value", text: minimal, sets: []string{"train.schedule.name=cosin"},
			want: `--set train.schedule.name=cosin: train.schedule.name: cosin: want constant, linear or cosine (did you mean cosine?)`},
		{name: "bytes", text: minimal, sets: []string{"collective.receive_budget_bytes=256MiBs"},
			want: `--set collective.receive_budget_bytes=256MiBs: collective.receive_budget_bytes: 256MiBs: want bytes, such as 1048576, 64KiB or 1.5GiB, 1MiB to 1TiB`},
		{name: "null where there is a default", text: minimal, sets: []string{"seed=null"},
			want: `--set seed=null: seed: null: want a whole number at least 0 and at most 9007199254740991`},
		{name: "absent parts", text: minimal + "method:\n  type: lora\n  lora: {rank: 4}\noffload:\n  optimizer: none\ntrain2: 1\n",
			want: `job.yaml:6:9: method.type: lora: not available in this version: want full
job.yaml:7:3: method.lora: not available in this version
job.yaml:8:1: offload: not available in this version
job.yaml:10:1: train2: unknown field (did you mean "train"?)`},
		{name: "absent values", text: minimal, sets: []string{"train.leaf=2", "output.formats=[safetensors, gguf]", "checkpoint.store=hf://b", "data.train[0].path=x.parquet", "model.base=ftp://x"},
			want: `--set train.leaf=2: train.leaf: 2: not available in this version: want 1
--set output.formats=[safetensors, gguf]: output.formats[1]: gguf: not available in this version: want safetensors
--set checkpoint.store=hf://b: checkpoint.store: hf://b: hf:// is not available in this version: want a local path, s3://, gs:// or azblob://
--set data.train[0].path=x.parquet: data.train[0].path: x.parquet: .parquet is not available in this version: want .jsonl or .txt
--set model.base=ftp://x: model.base: ftp://x: want a local path, hf:// or preset://`},
		{name: "a store without a bucket", text: minimal, sets: []string{"checkpoint.store=s3:///prefix"},
			want: `--set checkpoint.store=s3:///prefix: checkpoint.store: s3:///prefix: want s3://BUCKET/PREFIX`},
		{name: "epochs and steps", text: minimal, sets: []string{"train.epochs=1"},
			want: `job.yaml:4:9: train.steps: 3 given together with train.epochs: want one of them`},
		{name: "batch sizes", text: minimal, sets: []string{"train.global_batch_size=7"},
			want: `job.yaml:4:1: train.micro_batch_size: 2 does not divide train.global_batch_size, 7`},
		{name: "micro-batch above the global batch", text: minimal, sets: []string{"train.micro_batch_size=32"},
			want: `--set train.micro_batch_size=32: train.micro_batch_size: 32 is more than train.global_batch_size, 16`},
		{name: "min above max", text: minimal, sets: []string{"workers.min=3"},
			want: `--set workers.min=3: workers.min: 3 is more than workers.max, 2`},
		{name: "loss_on", text: minimal, sets: []string{"data.loss_on=assistant"},
			want: `--set data.loss_on=assistant: data.loss_on: assistant does not suit data.train[0], whose format is text: want all`},
		{name: "eval twice", text: minimal, sets: []string{"data.eval_fraction=0.5", "data.eval=[{path: b.txt}]"},
			want: `--set data.eval_fraction=0.5: data.eval_fraction: given together with data.eval: want one of them`},
		{name: "format of a .txt", text: minimal, sets: []string{"data.train[0].format=messages"},
			want: `--set data.train[0].format=messages: data.train[0].format: messages of a .txt file: want text, or a .jsonl file`},
		{name: "source is text", text: minimal, sets: []string{"data.train=[a.txt]"},
			want: `--set data.train=[a.txt]: data.train[0]: a.txt: want a section of fields, such as {path: data/train.jsonl}`},
		{name: "no sources", text: minimal, sets: []string{"data.train=[]"},
			want: `--set data.train=[]: data.train: an empty list: want at least one source`},
		{name: "name", text: minimal, sets: []string{"name=../x"},
			want: `--set name=../x: name: "../x": want letters, digits, '.', '_' and '-', at most 63, the first a letter or digit`},
		{name: "duplicate keys", text: minimal + "seed: 1\nseed: 2\n",
			want: `job.yaml:6:1: seed: written twice, first at job.yaml:5:1`},
		{name: "anchor and alias", text: minimal + "name: &n x\noutput: {dir: *n}\n",
			want: "job.yaml:5:7: name: Anchor: anchors, aliases, tags and merge keys are not part of a job file\n" +
				"job.yaml:6:15: output.dir: Alias: anchors, aliases, tags and merge keys are not part of a job file"},
		{name: "tag", text: minimal + "name: !!str x\n",
			want: "job.yaml:5:7: name: Tag: anchors, aliases, tags and merge keys are not part of a job file"},
		{name: "syntax", text: "model: {base: x\n", want: "job.yaml:1:8: not valid YAML: could not find flow mapping end token '}'"},
		{name: "two documents", text: minimal + "---\nseed: 1\n", want: "job.yaml:6:5: a second document: want one"},
		{name: "a list", text: "- 1\n", want: "job.yaml:1:1: a list: want sections, such as model: and data:"},
		{name: "control character", text: "a: b\nc: \x01\n", want: "job.yaml:2:4: control character 0x01: not YAML text"},
		{name: "not UTF-8", text: "a: \xff", want: "job.yaml:1:1: not UTF-8 text"},
		{name: "sets that are none", text: minimal, sets: []string{"seed", "=1", "a..b=1", "seed.x=1", "data.train[7].path=x", "seed=[", "data[0]=1"},
			want: `--set seed: want a.b=value
--set =1: want a.b=value
--set a..b=1: a..b: "": want a field's name, such as train.steps or data.train[0].path
--set seed.x=1: seed: a section: want a whole number at least 0 and at most 9007199254740991
--set data.train[7].path=x: data.train[7].path: data.train has no element 7
--set seed=[: seed: not valid YAML: sequence end token ']' not found
--set data[0]=1: data[0]: data has no element 0`},
		{name: "set below a value", text: minimal + "seed: 1\n", sets: []string{"seed.x=1"},
			want: `--set seed.x=1: seed.x: seed is 1, not a section`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("job.yaml", []byte(c.text), c.sets)
			if err == nil {
				t.Fatal("no error")
			}
			if got := err.Error(); got != c.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, c.want)
			}
			if !IsBadInput(err) {
				t.Error("not bad input")
			}
		})
	}
}

func TestLoadNamesTheFileItCannotRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.yaml")
	_, err := Load(path, nil)
	if want := path + ": no such file or directory"; err == nil || err.Error() != want || !IsBadInput(err) {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestLoadRefusesWhatIsTooLarge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "large.yaml")
	if err := os.WriteFile(path, []byte(minimal+strings.Repeat("# \n", maxFileBytes)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path, nil); err == nil || !strings.Contains(err.Error(), "want at most 65536") {
		t.Errorf("got %v", err)
	}
}

// A document that is small and nested without end must not take the stack or the day.
func TestParseIsBounded(t *testing.T) {
	const n = maxFileBytes - 64
	for name, text := range map[string]string{
		"brackets":        strings.Repeat("[", n),
		"braces":          strings.Repeat("{a: ", n/4),
		"dashes":          strings.Repeat("- ", n/2),
		"keys":            strings.Repeat("? ", n/2),
		"tags":            strings.Repeat("!a ", n/3),
		"anchors":         strings.Repeat("&a ", n/3),
		"indents":         staircase(300),
		"aliases":         "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n",
		"long line":       "name: " + strings.Repeat("x", n),
		"many keys":       strings.Repeat("a:\n", n/3),
		"many items":      "data: {train: [" + strings.Repeat("{path: a}, ", n/11) + "]}",
		"many lines":      strings.Repeat("\n", n),
		"open quote":      "name: \"" + strings.Repeat("\\n", n/2),
		"block of spaces": "name: |\n" + strings.Repeat(" \n", n/2),
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			if _, err := Parse("job.yaml", []byte(text), nil); err == nil {
				t.Error("accepted")
			}
			if d := time.Since(start); d > time.Minute {
				t.Errorf("took %v", d)
			}
		})
	}
}

func staircase(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

func TestFaultPointsAtWhereAValueStands(t *testing.T) {
	j := mustParse(t, minimal, "model.base=m")
	for path, want := range map[string]string{
		"data.train[0].path":         "job.yaml:3:12: data.train[0].path: gone",
		"model.base":                 "--set model.base=m: model.base: gone",
		"train.optimizer.betas":      "job.yaml:4:1: train.optimizer.betas: gone",
		"checkpoint.store":           "job.yaml:1:1: checkpoint.store: gone",
		"data.train[0].format.never": "job.yaml:3:11: data.train[0].format.never: gone",
	} {
		if got := j.Fault(path, "gone").Error(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]Bytes{
		"0": 0, "17": 17, "64KiB": 64 << 10, "1.5GiB": 3 << 29, "2GB": 2e9, "1 MiB": 1 << 20, "3kB": 3000, "9223372036854775807": 1<<63 - 1, "5B": 5, "1e3": 1000,
	} {
		if got, err := ParseBytes(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "KiB", "-1", "-1KiB", "0.3", "1.0000001KiB", "1e30", "9EiB", "0x10", "1_000", "nan", "inf", "infKiB", "1 2", "9223372036854775808"} {
		if got, err := ParseBytes(text); err == nil {
			t.Errorf("%q: got %d, want an error", text, got)
		}
	}
	for b, want := range map[Bytes]string{0: "0", 1000: "1000", 1024: "1KiB", 1536: "1536", 256 << 20: "256MiB", 5 << 40: "5TiB"} {
		if got := b.String(); got != want {
			t.Errorf("%d: got %s, want %s", int64(b), got, want)
		}
	}
}
