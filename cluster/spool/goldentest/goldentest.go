// Package goldentest reads the logs that the last build of cluster version 1 wrote
// (cluster/spool/testdata/v1), with what they led to. Later builds must replay them to
// the same state for ever, whatever changes: old entries are in the logs of clusters.
package goldentest

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// Log is one log with what it led to.
type Log struct {
	Name    string
	Entries []Entry
	State   []byte   // hash of the state behind the last entry
	Answers []string // what each command was answered, as Answer writes it
}

// Entry is one command at its index; indexes have gaps.
type Entry struct {
	Index uint64
	Frame spool.Frame
}

// Answer is a result without its texts.
func Answer(index uint64, r *pb.Result) string {
	return fmt.Sprintf("%d %s %d %d %d %v", index, r.Code, r.Count, r.Token, r.Epoch, r.Codes)
}

// Read reads all logs of a directory.
func Read(dir string) ([]Log, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("goldentest: no logs in %s (%w)", dir, err)
	}
	var all []Log
	for _, file := range files {
		one, err := read(file)
		if err != nil {
			return nil, fmt.Errorf("goldentest: %s: %w", file, err)
		}
		all = append(all, one)
	}
	return all, nil
}

func read(file string) (l Log, err error) {
	l.Name = strings.TrimSuffix(filepath.Base(file), ".log")
	b, err := os.ReadFile(file)
	if err != nil {
		return l, err
	}
	for len(b) > 0 {
		if len(b) < 12 || len(b)-12 < int(binary.BigEndian.Uint32(b[8:])) {
			return l, fmt.Errorf("entry %d is cut short", len(l.Entries))
		}
		n := binary.BigEndian.Uint32(b[8:])
		l.Entries = append(l.Entries, Entry{binary.BigEndian.Uint64(b), spool.Frame(b[12 : 12+n])})
		b = b[12+n:]
	}
	want, err := os.ReadFile(strings.TrimSuffix(file, ".log") + ".want")
	if err != nil {
		return l, err
	}
	lines := strings.Split(strings.TrimSpace(string(want)), "\n")
	l.Answers = lines[1:]
	l.State, err = hex.DecodeString(strings.TrimPrefix(lines[0], "state "))
	return l, err
}
