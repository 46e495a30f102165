package job

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("job.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("job.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func validate(t *testing.T, s *jsonschema.Schema, text []byte) error {
	t.Helper()
	asJSON, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	var doc any
	d := json.NewDecoder(bytes.NewReader(asJSON))
	d.UseNumber()
	if err := d.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	return s.Validate(doc)
}

func TestExamplesLoadAndSatisfyTheSchema(t *testing.T) {
	files, err := filepath.Glob("../examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("examples: %v, %v", files, err)
	}
	s := compileSchema(t)
	for _, f := range files {
		j, err := Load(f, nil)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(t, s, text); err != nil {
			t.Errorf("%s: %v", f, err)
		}
		d := Digests{Model: "sha256:m", Train: make([]string, len(j.Data.Train)), Eval: make([]string, len(j.Data.Eval))}
		for i := range d.Train {
			d.Train[i] = "sha256:t"
		}
		for i := range d.Eval {
			d.Eval[i] = "sha256:e"
		}
		if err := validate(t, s, mustResolve(t, j, d).Marshal()); err != nil {
			t.Errorf("%s, resolved: %v", f, err)
		}
	}
}

// The schema and Load come from the same tags: what is wrong with one field is wrong for both.
func TestSchemaRefusesWhatLoadRefuses(t *testing.T) {
	s := compileSchema(t)
	for _, wrong := range []string{
		"sede: 1", "seed: ten", "seed: -1", "name: 5", "workers: {min: 1.5}", "workers: {min: 0}", "log: {tensorboard: 'yes'}",
		"method: {type: lora}", "method: {lora: {}}", "offload: {}", "recovery: {replica_tier: nvme}", "recovery: {replicas: 2}", "sharding: {stage: 4}", "sharding: {stage: '3'}",
		"sharding: {wire: {gradients: int4}}", "collective: {receive_budget_bytes: 3 quarts}", "collective: {receive_budget_bytes: 1}",
		"output: {formats: [gguf]}", "eval: {every_steps: -1}", "seed: null", "apiVersion: zerofleet/v2", "resolved: {}", "output: 7",
	} {
		text := []byte(minimal + wrong + "\n")
		if _, err := Parse("job.yaml", text, nil); err == nil {
			t.Errorf("Parse accepts %s", wrong)
		}
		if err := validate(t, s, text); err == nil {
			t.Errorf("the schema accepts %s", wrong)
		}
	}
	for _, right := range []string{"", "sharding: {stage: auto}", "collective: {receive_budget_bytes: 512MiB}", "log: {otlp_endpoint: null}",
		"workers: {device_memory_bytes: 1073741824}", "train: {gradient_checkpointing: true, steps: 3}", "sharding: {wire: {parameters: f32}}"} {
		text := []byte(minimal + right + "\n")
		if bytes.Contains(text, []byte("train: {grad")) {
			text = bytes.Replace(text, []byte("train: {steps: 3}\n"), nil, 1)
		}
		if _, err := Parse("job.yaml", text, nil); err != nil {
			t.Errorf("Parse refuses %s: %v", right, err)
		}
		if err := validate(t, s, text); err != nil {
			t.Errorf("the schema refuses %s: %v", right, err)
		}
	}
}
