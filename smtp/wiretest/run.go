package wiretest

import (
	"path/filepath"
	"testing"
)

// Run plays every transcript that the glob names, each as a subtest under its
// file's name. The player function makes the server for one script, usually
// with what Script.Options ask for, and cleans up by t.Cleanup.
func Run(t *testing.T, glob string, player func(t *testing.T, s *Script) *Player) {
	t.Helper()
	files, err := filepath.Glob(glob)
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts at %s (%v)", glob, err)
	}
	for _, file := range files {
		s, err := Load(file)
		if err != nil {
			t.Error(err)
			continue
		}
		t.Run(s.Name, func(t *testing.T) {
			if err := player(t, s).Play(t.Context(), s); err != nil {
				t.Error(err)
			}
		})
	}
}
