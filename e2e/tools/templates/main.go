// The oracle: executes templates with Go's own text/template, and with Sprig. One JSON object a line comes in, one goes out.
// With the argument `functions` it prints the functions that there are, with their types.
package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"sort"
	"text/template"

	"github.com/Masterminds/sprig/v3"
)

type question struct {
	Template string            `json:"template"`
	Missing  string            `json:"missing"`
	Left     string            `json:"left"`
	Right    string            `json:"right"`
	Sprig    bool              `json:"sprig"`
	Data     map[string]string `json:"data"`
	// Data of any shape, with Go's own types; Data is used when it is absent.
	Any any `json:"any"`
}

type answer struct {
	Output string `json:"output"`
	Error  string `json:"error"`
}

// functions are Sprig's but for those that see the process, and what stands beside them.
func functions() template.FuncMap {
	all := sprig.TxtFuncMap()
	for _, name := range []string{"env", "expandenv", "getHostByName"} {
		delete(all, name)
	}
	for name, function := range helpers {
		all[name] = function
	}
	return all
}

func ask(q question) (a answer) {
	defer func() {
		if r := recover(); r != nil {
			a = answer{Error: fmt.Sprint("panic: ", r)}
		}
	}()
	missing := q.Missing
	if missing == "" {
		missing = "default"
	}
	empty := template.New("t").Option("missingkey="+missing).Delims(q.Left, q.Right)
	if q.Sprig {
		empty = empty.Funcs(functions()).Funcs(template.FuncMap{"goPkcs12": goPkcs12})
	}
	parsed, err := empty.Parse(q.Template)
	if err != nil {
		return answer{Error: err.Error()}
	}
	var data any = q.Data
	if q.Any != nil {
		data = typed(q.Any)
	}
	var out bytes.Buffer
	if err := parsed.Execute(&out, data); err != nil {
		return answer{Error: err.Error()}
	}
	return answer{Output: base64.StdEncoding.EncodeToString(out.Bytes())}
}

// typed makes int of whole JSON numbers, so that there are integers among the data.
func typed(v any) any {
	switch v := v.(type) {
	case float64:
		if v == float64(int(v)) {
			return int(v)
		}
		return v
	case []any:
		for i := range v {
			v[i] = typed(v[i])
		}
		return v
	case map[string]any:
		for k := range v {
			v[k] = typed(v[k])
		}
		return v
	}
	return v
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "functions" {
		all := functions()
		var names []string
		for name := range all {
			names = append(names, name)
		}
		sort.Strings(names)
		for _, name := range names {
			fmt.Println(name, reflect.TypeOf(all[name]))
		}
		return
	}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 64<<20)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		var q question
		if err := json.Unmarshal(in.Bytes(), &q); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if err := out.Encode(ask(q)); err != nil {
			os.Exit(1)
		}
	}
}
