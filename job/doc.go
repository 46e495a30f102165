// Package job reads job.yaml, the one document that says what to train and how.
//
// Load parses a file, lays --set options over it, fills in the defaults and checks everything; all faults are
// reported at once, each with file, line and column. Resolve pins what can change a bit of the result, and
// Resolved.Marshal is the text of job.resolved.yaml, from which a run can be repeated. Diff tells which
// changes a resumed job may have.
//
// Only this package parses YAML, and it imports no other package of the project.
package job

//go:generate go run ../tools/jobdoc -o ../docs
