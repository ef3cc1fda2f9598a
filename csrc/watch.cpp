#include "watch.h"

#include <pybind11/stl.h>

#include <stdexcept>
#include <unordered_map>

namespace py = pybind11;

namespace yfk {

namespace {

const dlpack::ExchangeApi* api_in(const py::capsule& capsule) {
  auto* api = static_cast<const dlpack::ExchangeApi*>(
      PyCapsule_GetPointer(capsule.ptr(), dlpack::kCapsule));
  if (api == nullptr) throw py::error_already_set();
  while (api != nullptr && api->major > dlpack::kMajor) api = api->older;
  if (api == nullptr || api->major != dlpack::kMajor || api->describe == nullptr)
    throw std::runtime_error("this DLPack exchange API is of another major version");
  return api;
}

py::object attribute(PyObject* object, const py::str& name) {
  PyObject* value = PyObject_GetAttr(object, name.ptr());
  if (value == nullptr) PyErr_Clear();
  return py::reinterpret_steal<py::object>(value);
}

bool truth_of(const py::object& method, PyObject* self) {
  PyObject* arguments[] = {self};
  auto answer =
      py::reinterpret_steal<py::object>(PyObject_Vectorcall(method.ptr(), arguments, 1, nullptr));
  if (!answer) throw py::error_already_set();
  return answer.ptr() == Py_True;
}

}  // namespace

bool Watch::Layout::holds(const dlpack::Tensor& tensor) const {
  if (size_t(tensor.ndim) != shape.size() || !(tensor.dtype == dtype) || !(tensor.device == device))
    return false;
  for (size_t dim = 0; dim < shape.size(); ++dim) {
    if (tensor.shape[dim] != shape[dim]) return false;
    if (shape[dim] != 1 && tensor.strides[dim] != strides[dim]) return false;
  }
  return true;
}

Watch::Layout Watch::layout_of(const dlpack::Tensor& tensor) {
  return {std::vector<int64_t>(tensor.shape, tensor.shape + tensor.ndim),
          std::vector<int64_t>(tensor.strides, tensor.strides + tensor.ndim), tensor.dtype,
          tensor.device};
}

Watch::Watch(py::capsule api, py::object is_neg, py::object is_conj,
             const std::vector<std::pair<int64_t, uintptr_t>>& tables, std::vector<int64_t> sizes,
             py::list entries)
    : capsule_(std::move(api)), api_(api_in(capsule_)), is_neg_(std::move(is_neg)),
      is_conj_(std::move(is_conj)), params_key_("params"), grad_name_("grad"),
      local_name_("_local_tensor"), spec_name_("_spec"), placements_name_("placements"),
      sizes_(std::move(sizes)) {
  for (const auto& [rows, host] : tables) {
    Table table{reinterpret_cast<TensorRow*>(host), {}, {}};
    for (auto& column : table.addresses) column.assign(size_t(rows), 0);
    tables_.push_back(std::move(table));
  }
  for (py::handle item : entries) {
    auto entry = py::cast<py::tuple>(item);
    Param param{Place(py::cast<int>(entry[0])),
                py::cast<int64_t>(entry[1]),
                py::cast<int64_t>(entry[2]),
                py::cast<bool>(entry[4]),
                {},
                {}};
    dlpack::Tensor tensor;
    if (param.place != Place::kPlain) {
      if (api_->describe(entry[3].ptr(), &tensor) != 0) throw py::error_already_set();
      param.layout = layout_of(tensor);
    }
    Table* table = param.place == Place::kTable ? &tables_.at(size_t(param.table)) : nullptr;
    if (table) table->addresses[kParam].at(size_t(param.row)) = int64_t(tensor.data);
    for (py::handle state : py::cast<py::list>(entry[5])) {
      auto given = py::cast<py::tuple>(state);
      if (api_->describe(given[2].ptr(), &tensor) != 0) throw py::error_already_set();
      State kept{given[0], py::cast<int>(given[1]), layout_of(tensor), py::cast<bool>(given[3])};
      if (table) table->addresses[kept.column].at(size_t(param.row)) = int64_t(tensor.data);
      param.states.push_back(std::move(kept));
    }
    params_.push_back(std::move(param));
  }
  live_.resize(params_.size());
  live_states_.resize(params_.size());
}

// False for what has no memory that one could address.
bool Watch::describe(PyObject* object, bool sharded, dlpack::Tensor* out) const {
  py::object local;
  if (sharded) {
    local = attribute(object, local_name_);
    if (!local) return false;
    object = local.ptr();
  }
  if (api_->describe(object, out) != 0) {
    PyErr_Clear();
    return false;
  }
  out->data = static_cast<char*>(out->data) + out->byte_offset;
  return true;
}

bool Watch::describe_as(PyObject* object, bool sharded, const Layout& layout,
                        int64_t* address) const {
  dlpack::Tensor tensor;
  if (!describe(object, sharded, &tensor) || !layout.holds(tensor)) return false;
  *address = int64_t(tensor.data);
  return true;
}

// Its memory holds the negative or the conjugate of its values.
bool Watch::lazy(PyObject* grad, const dlpack::Tensor& tensor) const {
  return truth_of(is_neg_, grad) ||
         (tensor.dtype.code == dlpack::kComplex && truth_of(is_conj_, grad));
}

bool Watch::same_placements(PyObject* grad, PyObject* param) const {
  const py::object one = attribute(grad, spec_name_), other = attribute(param, spec_name_);
  if (!one || !other) return false;
  if (one.is(other)) return true;
  const py::object a = attribute(one.ptr(), placements_name_);
  const py::object b = attribute(other.ptr(), placements_name_);
  return a && b && a.equal(b);
}

// The live parameters; false if there are others than the plan has.
bool Watch::gather(PyObject* groups) {
  if (size_t(PyList_GET_SIZE(groups)) != sizes_.size()) return false;
  size_t index = 0;
  for (size_t g = 0; g < sizes_.size(); ++g) {
    PyObject* group = PyList_GET_ITEM(groups, Py_ssize_t(g));
    if (!PyDict_Check(group)) return false;
    PyObject* params = PyDict_GetItemWithError(group, params_key_.ptr());
    if (params == nullptr || !PyList_Check(params) || PyList_GET_SIZE(params) != sizes_[g])
      return false;
    for (Py_ssize_t i = 0; i < sizes_[g]; ++i)
      live_[index++] = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(params, i));
  }
  return true;
}

// The live state of each parameter. Looking a tensor up in a dict calls its __hash__, which is
// Python: so the dict is read from end to end instead, in the order of the last time.
void Watch::find_states(PyObject* state) {
  for (auto& each : live_states_) each = py::object();
  PyObject *key, *value;
  Py_ssize_t position = 0;
  size_t place = 0;
  bool in_order = true;
  while (PyDict_Next(state, &position, &key, &value)) {
    const int64_t index = place < order_.size() ? order_[place] : -2;
    ++place;
    if (index >= 0 && live_[size_t(index)].ptr() == key)
      live_states_[size_t(index)] = py::reinterpret_borrow<py::object>(value);
    else
      in_order &= index == -1;  // nothing of ours: it may be anything
  }
  if (in_order && place == order_.size()) return;
  std::unordered_map<PyObject*, int64_t> index_of;
  for (size_t i = 0; i < live_.size(); ++i) index_of.emplace(live_[i].ptr(), int64_t(i));
  order_.clear();
  position = 0;
  while (PyDict_Next(state, &position, &key, &value)) {
    const auto found = index_of.find(key);
    order_.push_back(found == index_of.end() ? -1 : found->second);
    if (found != index_of.end())
      live_states_[size_t(found->second)] = py::reinterpret_borrow<py::object>(value);
  }
}

void Watch::put(const Param& param, int column, int64_t address, int* seen) {
  Table& table = tables_[size_t(param.table)];
  int64_t& known = table.addresses[column][size_t(param.row)];
  if (known == address) return;
  if (column == kGrad && (known == 0 || known == -1 || address == 0)) *seen |= kUpdated;
  known = address;
  if (table.host != nullptr) {
    table.host[param.row].column[column] = address;
  } else {
    table.moved[column] = true;
    *seen |= kMoved;
  }
}

int Watch::look_at(size_t index) {
  Param& param = params_[index];
  PyObject* object = live_[index].ptr();
  const py::object grad = attribute(object, grad_name_);
  if (!grad) return kPlan;  // no tensor
  const bool present = !grad.is_none();
  int seen = present ? kSame : kNoGradient;
  if (param.place == Place::kPlain) return seen;
  int64_t address;
  dlpack::Tensor tensor;
  if (!describe(object, param.sharded, &tensor) || !param.layout.holds(tensor)) return kPlan;
  if (tensor.dtype.code == dlpack::kComplex && truth_of(is_conj_, object)) return kPlan;
  address = int64_t(tensor.data);
  if (param.place == Place::kNowhere) return present ? kPlan : seen;
  const bool empty = param.place == Place::kEmpty;
  if (address == 0 && !empty) return kPlan;
  if (param.object != object) {  // another object, if perhaps of the same memory
    param.object = object;
    seen |= kUpdated;
  }
  if (!empty) put(param, kParam, address, &seen);

  PyObject* state = live_states_[index].ptr();
  if (state == nullptr || !PyDict_Check(state)) return kPlan;
  for (const State& kept : param.states) {
    PyObject* value = PyDict_GetItemWithError(state, kept.key.ptr());
    if (value == nullptr || !describe_as(value, kept.sharded, kept.layout, &address)) return kPlan;
    if (empty) continue;
    if (address == 0) return kPlan;
    put(param, kept.column, address, &seen);
  }
  if (empty) return seen;

  if (!present) {
    put(param, kGrad, 0, &seen);
    return seen;
  }
  if (param.sharded && !same_placements(grad.ptr(), object)) return seen | kCopy;
  if (!describe(grad.ptr(), param.sharded, &tensor)) return seen | kCopy;
  if (!(tensor.dtype == param.layout.dtype)) return kPlan;
  if (tensor.data == nullptr || !param.layout.holds(tensor) || lazy(grad.ptr(), tensor))
    return seen | kCopy;
  put(param, kGrad, int64_t(tensor.data), &seen);
  return seen;
}

int Watch::look(py::list groups, py::dict state) {
  for (Table& table : tables_)
    for (bool& moved : table.moved) moved = false;
  int seen = kPlan;
  if (gather(groups.ptr())) {
    find_states(state.ptr());
    seen = kSame;
    bool any = false;
    for (size_t i = 0; i < params_.size() && !(seen & kPlan); ++i) {
      const int found = look_at(i);
      any |= !(found & kNoGradient);
      seen |= found & ~kNoGradient;
    }
    if (!any) seen |= kNoGradient;
  }
  for (auto& each : live_) each = py::object();
  for (auto& each : live_states_) each = py::object();
  return seen;
}

void Watch::forget_grads() {
  for (Table& table : tables_)
    for (int64_t& address : table.addresses[kGrad]) address = -1;
}

void Watch::forget() {
  for (Table& table : tables_)
    for (auto& column : table.addresses)
      for (int64_t& address : column) address = -1;
}

py::list Watch::moved() const {
  py::list found;
  for (size_t t = 0; t < tables_.size(); ++t)
    for (int column = 0; column < kColumns; ++column)
      if (tables_[t].moved[column])
        found.append(py::make_tuple(t, column, tables_[t].addresses[column]));
  return found;
}

}  // namespace yfk
