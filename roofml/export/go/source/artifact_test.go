package roofml

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func first(t *testing.T) (string, map[string]any) {
	t.Helper()
	there, err := Names()
	if err != nil || len(there) == 0 {
		t.Fatalf("no artifacts: %v", err)
	}
	raw, err := embedded.ReadFile("artifacts/" + there[0] + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var document map[string]any
	if err := json.Unmarshal(raw, &document); err != nil {
		t.Fatal(err)
	}
	return there[0], document
}

func written(t *testing.T, document map[string]any) string {
	t.Helper()
	raw, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "artifact.json")
	if err := os.WriteFile(file, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestAnArtifactBesideTheProgramIsReadAsTheOneBuiltIn(t *testing.T) {
	name, document := first(t)
	opened, err := Open(written(t, document))
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := Load(name)
	if err != nil {
		t.Fatal(err)
	}
	batch := mixed(64, 700, 512, 128)
	if a, b := timeOf(t, opened, batch), timeOf(t, loaded, batch); a != b {
		t.Errorf("%g and %g µs", a, b)
	}
}

func TestWhatIsNoArtifactOfOursIsAnError(t *testing.T) {
	tables := func(document map[string]any) map[string]any { return document["tables"].(map[string]any) }
	for name, spoil := range map[string]struct {
		how   func(map[string]any)
		error string
	}{
		"newer":         {func(d map[string]any) { d["schema"] = "roofml-go/2" }, "of a newer roofml"},
		"foreign":       {func(d map[string]any) { delete(d, "schema") }, "a foreign file"},
		"other formula": {func(d map[string]any) { d["formula_sha256"] = "0" }, "for another formula"},
		"field missing": {func(d map[string]any) { delete(d["step"].(map[string]any), "weights") }, "step.weights: missing"},
		"field unknown": {func(d map[string]any) { d["surplus"] = 1 }, `"surplus": unknown`},
		"no number":     {func(d map[string]any) { d["request"].(map[string]any)["queueing_us"] = "x" }, "request.queueing_us"},
		"null":          {func(d map[string]any) { tables(d)["kv_token"] = nil }, "tables.kv_token: null"},
		"table missing": {func(d map[string]any) { tables(d)["gemm"] = nil }, "tables.gemm: missing"},
		"table empty":   {func(d map[string]any) { tables(d)["gemm"] = map[string]any{"places": []int{}, "values": []int{}} }, "tables.gemm"},
		"table backwards": {func(d map[string]any) {
			tables(d)["gemm"] = map[string]any{"places": []int{0, 5, 3}, "values": []int{1, 2, 3}}
		}, "ascending"},
		"table of a lot": {func(d map[string]any) {
			tables(d)["gemm"] = map[string]any{"places": []int{0, 1 << 40}, "values": []int{1, 2}}
		}, "at most"},
		"reaches": {func(d map[string]any) {
			tables(d)["reaches"] = [][]int{{0, 0, 0, 0}}
			tables(d)["near"] = [][]int{{0, 0, 0, 0}}
		}, "tables.reaches"},
	} {
		t.Run(name, func(t *testing.T) {
			_, document := first(t)
			spoil.how(document)
			if model, err := Open(written(t, document)); err == nil {
				t.Errorf("it is read as %s", model.Name())
			} else if !strings.Contains(err.Error(), spoil.error) || !strings.Contains(err.Error(), "artifact.json") {
				t.Errorf("%v: expected %q, and the file's name", err, spoil.error)
			}
		})
	}
	for _, text := range []string{"", "{}", "[]", "null", "{\"schema\": \"roofml-go/1\"}", "not JSON"} {
		if _, err := Read(strings.NewReader(text), "text"); err == nil {
			t.Errorf("%q is read", text)
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "nothing.json")); err == nil {
		t.Error("a file that is not there is read")
	}
}

func TestADeploymentIsFoundByWhatItIsAndNoOtherStandsInForIt(t *testing.T) {
	name, document := first(t)
	model, gpu := document["model"].(string), document["gpu"].(string)
	size := int(document["tensor_parallel"].(float64))
	for _, asked := range []string{model, strings.ToUpper(model), "some-org/" + model, document["hf_repo"].(string)} {
		found, err := Find(asked, gpu, size)
		if err != nil || found.Name() != name {
			t.Errorf("%s: %v", asked, err)
		}
	}
	for what, err := range map[string]error{
		"another model": second(Find("another-model", gpu, size)),
		"another GPU":   second(Find(model, "another GPU", size)),
		"another TP":    second(Find(model, gpu, size+100)),
		"another name":  second(Load("another-name")),
		"a path":        second(Load("../artifacts/" + name)),
	} {
		if err == nil {
			t.Errorf("%s: found", what)
		} else if !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v: does not say what there is", what, err)
		}
	}
}

func second(_ *Model, err error) error { return err }

func TestAFolderOfArtifactsTakesThePlaceOfThoseBuiltIn(t *testing.T) {
	_, document := first(t)
	document["name"], document["tensor_parallel"] = "renamed", 64
	file := written(t, document)
	folder := filepath.Dir(file)
	t.Setenv(Folder, folder)
	if there, err := Names(); err != nil || len(there) != 1 || there[0] != "artifact" {
		t.Errorf("%v, %v", there, err)
	}
	if _, err := Find(document["model"].(string), document["gpu"].(string), 64); err != nil {
		t.Error(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "twin.json"), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(document["model"].(string), document["gpu"].(string), 64); err == nil || !strings.Contains(err.Error(), "are both of") {
		t.Errorf("two of one deployment: %v", err)
	}
	t.Setenv(Folder, filepath.Join(folder, "nowhere"))
	if _, err := Names(); err == nil || !strings.Contains(err.Error(), "no such folder") {
		t.Errorf("a folder that is not there: %v", err)
	}
}
