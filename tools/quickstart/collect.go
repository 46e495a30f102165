package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"unicode"
)

// An answer's length in bytes: English takes some four bytes a token, and a record
// with its question and roles is to fit a sequence of 128 tokens.
const (
	minAnswer = 40
	maxAnswer = 260
)

// record is a question and its answer. topic is what the question is about; records
// of one topic stay in one part.
type record struct {
	topic, question, answer string
}

// goroot is the folder of the Go installation.
func goroot() (string, error) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOROOT: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// collect makes the records of all packages below src that can be imported, in
// the order of their paths and names.
func collect(src string) ([]record, error) {
	var records []record
	seen := map[string]bool{}
	err := filepath.WalkDir(src, func(dir string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		if name := entry.Name(); dir != src && (name == "internal" || name == "testdata" || name == "vendor" || name == "cmd" || strings.HasPrefix(name, "_")) {
			return filepath.SkipDir
		}
		importPath, err := filepath.Rel(src, dir)
		if err != nil {
			return err
		}
		p, err := documentation(dir, filepath.ToSlash(importPath))
		if err != nil || p == nil {
			return err
		}
		for _, r := range describe(p) {
			if !seen[r.question] {
				seen[r.question] = true
				records = append(records, r)
			}
		}
		return nil
	})
	return records, err
}

// documentation reads a package's files; nil for a folder without a package. Of
// files for several systems those without a constraint, or for Linux, are read.
func documentation(dir, importPath string) (*doc.Package, error) {
	files := token.NewFileSet()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	sort.Strings(names)
	var parsed []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if !wanted(filepath.Base(name), text) {
			continue
		}
		file, err := parser.ParseFile(files, name, text, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		if file.Name.Name == "main" || len(parsed) > 0 && file.Name.Name != parsed[0].Name.Name {
			continue
		}
		parsed = append(parsed, file)
	}
	if len(parsed) == 0 {
		return nil, nil
	}
	return doc.NewFromFiles(files, parsed, importPath)
}

// wanted tells whether a file is part of the package on Linux, amd64, so that the
// records are the same on every machine.
func wanted(name string, text []byte) bool {
	parts := strings.Split(strings.TrimSuffix(name, ".go"), "_")
	for _, tag := range parts[1:] {
		if systems[tag] {
			return false
		}
	}
	for line := range bytes.Lines(text) {
		trimmed := strings.TrimSpace(string(line))
		if strings.HasPrefix(trimmed, "package ") {
			break
		}
		if constraint.IsGoBuild(trimmed) {
			e, err := constraint.Parse(trimmed)
			return err == nil && e.Eval(func(tag string) bool {
				return tag == "linux" || tag == "unix" || tag == "amd64" || tag == "gc" || tag == "cgo" || strings.HasPrefix(tag, "go1.")
			})
		}
	}
	return true
}

// systems are the suffixes of files for other machines than Linux on amd64.
var systems = func() map[string]bool {
	m := map[string]bool{}
	for _, s := range strings.Fields(`aix android darwin dragonfly freebsd hurd illumos ios js nacl netbsd openbsd plan9 solaris wasip1 windows zos
		386 arm arm64 loong64 mips mipsle mips64 mips64le ppc64 ppc64le riscv64 s390x sparc64 wasm`) {
		m[s] = true
	}
	return m
}()

// describe asks about a package, and its functions, types, methods, variables and constants.
func describe(p *doc.Package) (records []record) {
	name := path.Base(p.ImportPath)
	if p.Name != "" {
		name = p.Name
	}
	add := func(topic, question, text string) {
		if answer := shorten(p, text); answer != "" {
			records = append(records, record{topic, question, answer})
		}
	}
	add(p.ImportPath, fmt.Sprintf("What is the Go package %s for?", p.ImportPath), p.Doc)
	function := func(f *doc.Func) {
		if f.Recv != "" {
			full := name + "." + strings.TrimLeft(f.Recv, "*") + "." + f.Name
			add(full, fmt.Sprintf("What does the method %s do?", full), f.Doc)
			return
		}
		add(name+"."+f.Name, fmt.Sprintf("What does %s.%s do?", name, f.Name), f.Doc)
	}
	values := func(list []*doc.Value) {
		for _, v := range list {
			if len(v.Names) == 1 && token.IsExported(v.Names[0]) {
				add(name+"."+v.Names[0], fmt.Sprintf("What is %s.%s?", name, v.Names[0]), v.Doc)
			}
		}
	}
	values(p.Consts)
	values(p.Vars)
	for _, f := range p.Funcs {
		function(f)
	}
	for _, t := range p.Types {
		add(name+"."+t.Name, fmt.Sprintf("What is %s.%s?", name, t.Name), t.Doc)
		values(t.Consts)
		values(t.Vars)
		for _, f := range t.Funcs {
			function(f)
		}
		for _, f := range t.Methods {
			function(f)
		}
	}
	return records
}

// link is a reference to a name that is documented elsewhere.
var link = regexp.MustCompile(`\[(\*?[A-Za-z_][\w.]*)\]`)

// shorten makes an answer of a documentation comment: its first paragraphs as
// plain text, as long as they fit, at least its first sentence; "" when even that
// is too long, or when it says too little.
func shorten(p *doc.Package, text string) string {
	answer := ""
	for paragraph := range strings.SplitSeq(strings.TrimSpace(string(p.Text(text))), "\n\n") {
		line := strings.Join(strings.Fields(paragraph), " ")
		code := strings.HasPrefix(paragraph, "\t") || strings.HasPrefix(strings.TrimLeft(paragraph, "\n"), "\t")
		if code || line == "" || len(answer)+len(line) > maxAnswer || strings.HasSuffix(line, ":") {
			break
		}
		if answer != "" {
			answer += " "
		}
		answer += line
	}
	if answer == "" {
		answer = p.Synopsis(text)
	}
	answer = link.ReplaceAllString(answer, "$1")
	if len(answer) < minAnswer || len(answer) > maxAnswer || strings.HasPrefix(answer, "Deprecated:") || !plain(answer) {
		return ""
	}
	return answer
}

// plain tells whether an answer is prose: mostly letters and spaces.
func plain(s string) bool {
	letters, all := 0, 0
	for _, r := range s {
		all++
		if unicode.IsLetter(r) || r == ' ' {
			letters++
		}
	}
	return letters*10 >= all*8
}
