package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// overlaid builds a relayd in which some source files are others, and puts relayctl as it
// is beside it. write makes these files in a directory, and names them by those whose
// place they take.
func overlaid(name string, write func(dir string) (map[string]string, error)) (string, error) {
	right, err := binaries()
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "relay-e2e", name) // the same each time, so that the build is cached
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	files, err := write(dir)
	if err != nil {
		return "", err
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": files})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, list, 0o644); err != nil {
		return "", err
	}
	bin := filepath.Join(right, name)
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-overlay", overlay, "-o", filepath.Join(bin, "relayd"), "./cmd/relayd")
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build -overlay: %w\n%s", err, out)
	}
	return bin, os.Link(filepath.Join(right, "relayctl"), filepath.Join(bin, "relayctl"))
}

// patch is an overlay in which one place of a source file of a package of ours is another
// text, and a file of testdata stands beside it.
func patch(dir, pkg, file, from, to, beside string) (map[string]string, error) {
	place, err := filepath.Abs(filepath.Join("..", "..", filepath.FromSlash(pkg)))
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(place, file))
	if err != nil {
		return nil, err
	}
	if strings.Count(string(text), from) != 1 {
		return nil, fmt.Errorf("%s is another one than this test knows", filepath.Join(place, file))
	}
	own, err := filepath.Abs(filepath.Join("testdata", beside))
	if err != nil {
		return nil, err
	}
	changed := filepath.Join(dir, file)
	files := map[string]string{
		filepath.Join(place, file): changed, filepath.Join(place, strings.TrimSuffix(beside, ".txt")): own,
	}
	return files, os.WriteFile(changed, []byte(strings.Replace(string(text), from, to, 1)), 0o644)
}
