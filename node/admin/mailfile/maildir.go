package mailfile

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maildir reads the inbox of a Maildir, or the folders that were asked for.
// Folders are those of Maildir++ (".Sent") or plain ones within ("Sent", "Work/2023").
func (r *reading) maildir(path string) error {
	inside, err := r.maildirFolders(path)
	if err != nil {
		return err
	}
	wanted := []string{""}
	switch {
	case slices.Contains(r.o.Folders, "*"):
		wanted = append(wanted, inside...)
	case len(r.o.Folders) > 0:
		if wanted, err = chosen(path, inside, r.o.Folders); err != nil {
			return err
		}
	}
	for _, name := range inside {
		if !slices.Contains(wanted, name) {
			r.left(filepath.Join(path, name), fmt.Sprintf("is a folder of its own (--folder %s takes it)", name), false)
		}
	}
	for _, name := range wanted {
		if err := r.maildirFolder(filepath.Join(path, name)); err != nil {
			return err
		}
	}
	return nil
}

// maildirFolders names the folders within a Maildir, in order, also those that lie in one
// another.
func (r *reading) maildirFolders(path string) (names []string, err error) {
	err = filepath.WalkDir(path, func(at string, e fs.DirEntry, err error) error {
		switch {
		case r.ctx.Err() != nil:
			return r.ctx.Err()
		case at == path:
			return err
		case err != nil:
			r.left(at, "can't be read: "+cause(err), true)
			return fs.SkipDir
		case !e.IsDir():
			return nil
		case e.Name() == "cur" || e.Name() == "new" || e.Name() == "tmp":
			return fs.SkipDir
		case isDir(at, "cur") || isDir(at, "new"):
			name, err := filepath.Rel(path, at)
			names = append(names, name)
			return err
		}
		return nil
	})
	return names, err
}

// cause is what went wrong with a file whose name is said already.
func cause(err error) string {
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		return failed.Err.Error()
	}
	return err.Error()
}

// maildirRest lists what lies in a folder of a Maildir beside its mail, and in its tmp.
func (r *reading) maildirRest(dir string) {
	beside, _ := os.ReadDir(dir) // it was read before
	for _, e := range beside {
		if !e.IsDir() && !isMaildirsOwn(e.Name()) {
			r.left(filepath.Join(dir, e.Name()), "lies beside the folders cur and new, where mail is", false)
		}
	}
	begun, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if errors.Is(err, fs.ErrPermission) {
		r.left(filepath.Join(dir, "tmp"), "can't be read: "+cause(err), true)
	}
	for _, e := range begun {
		r.left(filepath.Join(dir, "tmp", e.Name()), "is a delivery that was never finished", false)
	}
}

// isMaildirsOwn reports whether mail servers keep a file of this name in a Maildir.
func isMaildirsOwn(name string) bool {
	for _, begin := range []string{".", "dovecot", "courier", "maildir", "subscriptions", "sieve"} {
		if strings.HasPrefix(name, begin) {
			return true
		}
	}
	return name == "cur" || name == "new" || name == "tmp"
}

// chosen finds the folders that were asked for, with or without their dot.
func chosen(path string, inside, asked []string) (found []string, err error) {
	for _, name := range asked {
		i := slices.IndexFunc(inside, func(have string) bool {
			return have == name || strings.EqualFold(strings.TrimPrefix(have, "."), strings.TrimPrefix(name, "."))
		})
		folder := ""
		switch {
		case strings.EqualFold(name, "INBOX"):
		case i < 0 && len(inside) == 0:
			return nil, fmt.Errorf("%s has no folder %s: it has none at all", path, name)
		case i < 0:
			return nil, fmt.Errorf("%s has no folder %s: it has %s", path, name, strings.Join(inside, ", "))
		default:
			folder = inside[i]
		}
		if !slices.Contains(found, folder) {
			found = append(found, folder)
		}
	}
	return found, nil
}

// maildirFolder reads what was seen and what is new, in order of arrival.
func (r *reading) maildirFolder(dir string) error {
	var all []maildirName
	for _, sub := range []string{"cur", "new"} {
		if st, err := os.Lstat(filepath.Join(dir, sub)); err == nil && !st.IsDir() {
			r.left(filepath.Join(dir, sub), "is no folder but a link or a file", true)
			continue
		}
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			name := filepath.Join(dir, sub, e.Name())
			switch {
			case strings.HasPrefix(e.Name(), "."):
				r.left(name, "is a hidden file", false)
			case !e.Type().IsRegular():
				r.left(name, "is no regular file", false)
			default:
				all = append(all, parseMaildirName(name, e.Name()))
			}
		}
	}
	r.maildirRest(dir)
	slices.SortStableFunc(all, maildirName.compare)
	if r.o.UIDLs != nil {
		var err error
		if r.listed, err = readUIDLs(filepath.Join(dir, uidlistName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, one := range all {
		if one.trashed && !r.o.IncludeDeleted {
			r.left(one.path, "is marked as deleted (--include-deleted takes it)", false)
			continue
		}
		if err := r.tolerate(one.path, r.maildirFile(one)); err != nil {
			return err
		}
	}
	return nil
}

func (r *reading) maildirFile(one maildirName) error {
	s, err := openFile(r.ctx, one.path)
	if errors.Is(err, fs.ErrNotExist) {
		r.left(one.path, "was moved or deleted meanwhile", true)
		return nil
	}
	if err != nil {
		return err
	}
	return r.single(s, one.received)
}

// maildirName is what a file's name in a Maildir tells: when it came, in which
// order within the second, and its flags.
type maildirName struct {
	path     string
	unique   string // the name without its flags
	received time.Time
	seconds  int64
	micros   int64
	sequence int64
	trashed  bool
}

// parseMaildirName reads names such as 1700000000.M123P45Q6.host:2,ST and
// 1700000000.45_6.host.
func parseMaildirName(path, name string) maildirName {
	unique, flags := partFlags(name)
	m := maildirName{path: path, unique: unique, trashed: strings.Contains(flags, "T")}
	parts := strings.SplitN(unique, ".", 3)
	seconds, err := strconv.ParseInt(parts[0], 10, 64)
	if err != nil || seconds < 0 || seconds > 1<<33 {
		return m
	}
	m.seconds = seconds
	if seconds > 0 {
		m.received = time.Unix(seconds, 0)
	}
	if len(parts) > 1 {
		m.micros, m.sequence = number(parts[1], 'M'), max(number(parts[1], 'Q'), number(parts[1], '_'))
	}
	return m
}

// flagsEnd are the flags of a name in a Maildir. Programs put another
// character in the place of the colon on file systems that have none in names: on
// Windows ; or !, Cygwin F03A, Samba F022.
var flagsEnd = regexp.MustCompile("[:;!\uf03a\uf022]2,[A-Za-z]*$")

// partFlags parts a name into what is unique in it and its flags.
func partFlags(name string) (unique, flags string) {
	if at := flagsEnd.FindStringIndex(name); at != nil {
		_, flags, _ = strings.Cut(name[at[0]:], "2,")
		return name[:at[0]], flags
	}
	unique, flags, _ = strings.Cut(name, ":2,")
	return unique, flags
}

// number is the decimal number behind a letter, 0 without one.
func number(s string, letter byte) int64 {
	i := strings.IndexByte(s, letter)
	if i < 0 {
		return 0
	}
	s = s[i+1:]
	end := 0
	for end < len(s) && s[end] >= '0' && s[end] <= '9' {
		end++
	}
	n, _ := strconv.ParseInt(s[:end], 10, 64)
	return n
}

func (m maildirName) compare(o maildirName) int {
	return cmp.Or(cmp.Compare(m.seconds, o.seconds), cmp.Compare(m.micros, o.micros), cmp.Compare(m.sequence, o.sequence),
		natural(m.unique, o.unique))
}

// natural compares names with the numbers in them as numbers.
func natural(a, b string) int {
	for a != "" && b != "" {
		da, db := digits(a), digits(b)
		if da > 0 && db > 0 {
			x, y := strings.TrimLeft(a[:da], "0"), strings.TrimLeft(b[:db], "0")
			if c := cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y)); c != 0 {
				return c
			}
			a, b = a[da:], b[db:]
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

// digits counts the digits that s begins with.
func digits(s string) (n int) {
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}
