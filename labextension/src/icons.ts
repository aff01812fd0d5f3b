import { LabIcon } from '@jupyterlab/ui-components';
import forkSvg from '../style/icons/fork.svg';
import machineSvg from '../style/icons/machine.svg';

export const machineIcon = new LabIcon({ name: 'fc-kernel:machine', svgstr: machineSvg });
export const forkIcon = new LabIcon({ name: 'fc-kernel:fork', svgstr: forkSvg });
