// Package imports keeps the project's import table alive: which folder may know which. A package that imports upwards, a
// circle, or cgo in what builds without it is a failure that says which import, and why not.
package imports

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/zerofleet/zerofleet"

// anything lets a folder import every other one; nothing imports it in turn, except where a row says so.
var anything = []string{"*"}

// table gives, for each folder, the folders of ours that its files (tests apart) may import. A row holds for the
// folder's sub-packages too, unless one has a row of its own; a folder and its sub-packages may import each
// other; a name stands for its sub-packages as well, except where exclusive says otherwise.
var table = map[string][]string{
	"proto":       {},
	"shard":       {},
	"kernels":     {},
	"source":      {},
	"safetensors": {},
	"gguf":        {},
	"telemetry":   {},
	"tokenizer":   {"gguf"},
	"data":        {"tokenizer", "source"},
	"job":         {"proto"},
	"collective":  {"proto", "kernels"},
	"offload":     {"kernels", "shard"},
	"checkpoint":  {"shard", "safetensors"},
	"model/spec":  {"safetensors", "gguf"},
	// Reading and writing weight files needs no kernels, so that the coordinator can export without cgo.
	"model/weights": {"model/spec", "safetensors", "gguf", "source"},
	"model":         {"kernels", "model/spec", "model/weights", "safetensors", "gguf", "source"},
	"membership":    {"proto", "shard"},
	"plan":          {"job", "shard", "model/spec"},
	"train": {"proto", "shard", "kernels", "source", "safetensors", "gguf", "telemetry", "tokenizer", "data", "job", "collective", "offload",
		"checkpoint", "model", "model/spec", "model/weights", "plan"},
	"worker": {"proto", "shard", "kernels", "source", "safetensors", "gguf", "telemetry", "tokenizer", "data", "job", "collective", "offload",
		"checkpoint", "model", "model/spec", "model/weights", "membership", "plan", "train", "worker/inputs"},
	// Opening what a job names needs no kernels: the coordinator checks a job as a worker will open it.
	"worker/inputs": {"source", "safetensors", "gguf", "tokenizer", "data", "job", "model/spec", "model/weights"},
	"coordinator": {"proto", "shard", "source", "safetensors", "gguf", "telemetry", "tokenizer", "data", "job",
		"checkpoint", "model/spec", "model/weights", "membership", "plan", "worker/inputs"},
	"cmd":      anything,
	"deploy":   anything,
	"examples": anything,
	"bench":    anything,
	"docs":     anything,
	"tools":    anything,
	"test":     anything,
}

// exclusive are folders that a row must name: the name of the folder above does not stand for them.
var exclusive = []string{"model/spec", "model/weights", "worker/inputs"}

// why says, for a folder that is not in a row, what would break.
var why = map[string]string{
	"kernels":    "it needs cgo, or would tie the folder to a device",
	"model":      "it needs cgo; model/spec and model/weights do not",
	"collective": "it needs cgo",
	"offload":    "it needs cgo",
	"train":      "it needs cgo, and knows nothing that the folder should",
	"cmd":        "nothing imports a command",
	"bench":      "nothing imports it",
	"tools":      "nothing imports it",
	"test":       "nothing imports it",
	"examples":   "nothing imports it",
	"docs":       "nothing imports it",
	"deploy":     "nothing imports it",
}

type pkg struct {
	ImportPath string
	Imports    []string
	CgoFiles   []string
}

// dependOnTree reads every folder, so that go test runs again, rather than remembers, when a file has changed: it does
// not see what the go command reads.
func dependOnTree(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && path != "../.." && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// list runs go list in the repository's root.
func list(t *testing.T, env []string, args ...string) map[string]pkg {
	t.Helper()
	dependOnTree(t)
	cmd := exec.Command("go", append([]string{"list", "-e", "-json=ImportPath,Imports,CgoFiles"}, args...)...)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	pkgs := make(map[string]pkg)
	d := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs[p.ImportPath] = p
	}
}

// within says whether path is folder or below it.
func within(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, folder+"/")
}

// row finds the folder whose row holds for a package: the longest that it is within.
func row(path string) (string, bool) {
	best := ""
	for folder := range table {
		if within(path, folder) && len(folder) > len(best) {
			best = folder
		}
	}
	return best, best != ""
}

// fault says why from may not import to; "" if it may.
func fault(from, to string) string {
	here, known := row(from)
	if !known {
		return "it stands in no folder of the table: add a row, or put it where it belongs"
	}
	there, known := row(to)
	if !known {
		return "what it imports stands in no folder of the table"
	}
	if here == there {
		return ""
	}
	allowed := table[here]
	if slices.Equal(allowed, anything) {
		if top, _, _ := strings.Cut(there, "/"); slices.Equal(table[top], anything) {
			return why[top]
		}
		return ""
	}
	for _, a := range allowed {
		if there == a || within(there, a) && !slices.Contains(exclusive, there) {
			return ""
		}
	}
	may := "nothing of ours"
	if len(allowed) > 0 {
		may = strings.Join(allowed, ", ")
	}
	reason := fmt.Sprintf("%s may import %s", here, may)
	if w := why[there]; w != "" {
		reason += ": " + w
	}
	return reason
}

func TestEveryImportIsInTheTable(t *testing.T) {
	seen := 0
	for _, p := range list(t, nil, "./...") {
		from := strings.TrimPrefix(p.ImportPath, module+"/")
		if _, known := row(from); !known {
			t.Errorf("%s: %s", from, fault(from, from))
		}
		for _, i := range p.Imports {
			to, ours := strings.CutPrefix(i, module+"/")
			if !ours {
				continue
			}
			seen++
			if f := fault(from, to); f != "" {
				t.Errorf("%s imports %s: %s", from, to, f)
			}
		}
	}
	if seen == 0 {
		t.Error("go list shows no import at all: the test sees nothing")
	}
}

// The coordinator is built with CGO_ENABLED=0: nothing of ours below it may hold C, whatever the table says.
func TestCoordinatorBuildsWithoutCgo(t *testing.T) {
	deps := list(t, []string{"CGO_ENABLED=1"}, "-deps", "./cmd/coordinator")
	if len(deps[module+"/cmd/coordinator"].Imports) == 0 {
		t.Fatal("go list shows no import of cmd/coordinator: the test sees nothing")
	}
	for path, p := range deps {
		if strings.HasPrefix(path, module) && len(p.CgoFiles) > 0 {
			t.Errorf("cmd/coordinator depends on %s, which holds cgo (%s): imported by %s", path, strings.Join(p.CgoFiles, ", "),
				strings.Join(importers(deps, path), ", "))
		}
	}
}

func importers(pkgs map[string]pkg, path string) []string {
	var out []string
	for from, p := range pkgs {
		if slices.Contains(p.Imports, path) {
			out = append(out, from)
		}
	}
	slices.Sort(out)
	return out
}

func TestTheTableRefuses(t *testing.T) {
	for _, c := range []struct {
		from, to string
		ok       bool
	}{
		{"train", "kernels", true},
		{"train", "membership", false},
		{"train", "worker", false},
		{"shard", "kernels", false},
		{"kernels/cpu", "kernels", true},
		{"collective/grpc", "collective/internal/frame", true},
		{"collective", "model", false},
		{"coordinator", "model", false},
		{"coordinator", "model/spec", true},
		{"coordinator/live", "coordinator", true},
		{"coordinator", "worker", false},
		{"coordinator", "worker/inputs", true},
		{"model", "model/spec", true},
		{"model/spec", "model", false},
		{"model/generate", "model", true},
		{"plan", "model", false},
		{"checkpoint", "model/spec", false},
		{"cmd/coordinator", "coordinator/live", true},
		{"cmd/coordinator", "tools/jobdoc", false},
		{"coordinator", "cmd/worker", false},
		{"telemetry", "util", false},
		{"util", "shard", false},
	} {
		if got := fault(c.from, c.to); (got == "") != c.ok {
			t.Errorf("%s imports %s: got %q, want allowed %v", c.from, c.to, got, c.ok)
		}
	}
}

// A folder's row must not let it reach itself.
func TestTheTableHasNoCircle(t *testing.T) {
	state := make(map[string]int) // 1: on the way, 2: done
	var visit func(path []string)
	visit = func(path []string) {
		folder := path[len(path)-1]
		switch state[folder] {
		case 1:
			t.Fatalf("circle: %s", strings.Join(path, " -> "))
		case 2:
			return
		}
		state[folder] = 1
		for _, next := range table[folder] {
			if next != "*" {
				visit(append(slices.Clone(path), next))
			}
		}
		state[folder] = 2
	}
	for folder := range table {
		visit([]string{folder})
	}
}
