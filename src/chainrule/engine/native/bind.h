#pragma once
#include <nanobind/nanobind.h>

void chainrule_bind_machine(nanobind::module_& m);
